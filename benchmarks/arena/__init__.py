"""HttpArena's HTTP/1.1 profiles, made again from its published rules, and our entry for it.

The rules: https://github.com/MDA2AV/HttpArena, site/content/docs/test-profiles and scripts/validate.sh, commit 28606bafd552
of April 2026; `noisy` is from before it was taken out there. Nothing of it is copied: data, checks, load and applications
are our own. README.md says where this differs.
"""
