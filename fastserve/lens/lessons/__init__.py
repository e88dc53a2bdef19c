"""lessons: what `fastserve learn` teaches with: applications to look at, and what is asked and told about them.

Room: the top. Called by: learn. demo.py and threads.py are served as any user's application is, and shown as source text.
"""
