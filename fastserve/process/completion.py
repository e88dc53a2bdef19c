"""completion: what a shell offers when Tab is pressed behind `fastserve`: scripts for bash, zsh and fish.

Room: floor 3. Called by: cli.py. Calls: config.py (OPTIONS), arguments.py (spellings, commands).

A script is made from the tables that the parser and the help are made from, and holds all it needs: nothing of ours runs
when Tab is pressed. What can be offered is one list of `Flag`s; each shell has one function that writes it down.
Applications are looked for by their text: a file of Python in this folder or two below that has `app`, `application`,
`create_app` or `make_app` at the beginning of a line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from fastserve._version import __version__
from fastserve.errors import ConfigError
from fastserve.process.arguments import OTHERS, USAGE_ERROR, Command, flags_of
from fastserve.process.config import LOOPS, OPTIONS, Config, Option

__all__ = ["SHELLS", "script"]

SUGGESTED: dict[str, tuple[str, ...]] = {
    "loop": LOOPS,
    "workers": ("auto",),
    "access_log_format": ("default", "common", "combined", "json"),
}
"""Words that options without `choices` know besides what is free."""

KINDS = {"FILE": "files", "DIR": "folders", "USER": "users", "GROUP": "groups"}
"""What a metavar stands for."""

FIND_APPS = (
    r"""find . -maxdepth 3 -name '.?*' -prune -o -name '*.py' -exec """
    r"""grep -HoE '^(async +def +|def +)?(app|application|create_app|make_app) *[:=(]' '{}' + 2> /dev/null """
    r"""| sed -E 's#^\./##; s# *[:=(]$##; s#(/__init__)?\.py:(.* )?#:#; s#/#.#g' | sort -u"""
)
"""MODULE:NAME of each, one a line; the same in every shell."""


class Flag(NamedTuple):
    """One spelling of something that begins with a dash."""

    text: str  # --log-level, -w
    about: str
    takes: str | None  # nothing: None; else "words", "files", "folders", "users", "groups", or "" for what is free
    words: tuple[str, ...] = ()
    metavar: str = ""


def script(shell: str, commands: Mapping[str, Command]) -> str:
    """The text that teaches `shell` to complete. ConfigError: no shell that we know."""
    if shell not in SHELLS:
        raise ConfigError(f"completion must be for one of {', '.join(SHELLS)}, not {shell!r}", exit_code=USAGE_ERROR)
    return SHELLS[shell](commands)


def of_options() -> list[Flag]:
    """Every spelling of every option of the server, and of what stands beside them."""
    found: list[Flag] = []
    for name, option in OPTIONS.items():
        takes, words = _value(name, option)
        spellings = flags_of(name, option)
        if option.kind == "flag" and Config.__dataclass_fields__[name].default is not False:
            spellings.append("--no-" + name.replace("_", "-"))
        found += [Flag(text, option.help, takes, words, option.metavar or "") for text in spellings]
    for text, metavar, about in OTHERS:
        found += _others(text, metavar, about)
    return found


def _others(text: str, metavar: str, about: str) -> Iterator[Flag]:
    for spelling in text.split(", "):
        words = tuple(metavar.split("|")) if "|" in metavar else ()
        takes = None if not metavar else "words" if words else KINDS.get(metavar, "")
        yield Flag(spelling, about, takes, words, metavar)


def _value(name: str, option: Option) -> tuple[str | None, tuple[str, ...]]:
    if option.kind == "flag":
        return None, ()
    if words := option.choices or SUGGESTED.get(name, ()):
        return "words", words
    return ("files" if name == "uds" else KINDS.get(option.metavar or "", "")), ()


def _of_command(command: Command) -> list[Flag]:
    return [flag for text, metavar, about in command.flags for flag in _others(text, metavar, about)]


def _words_of(command: Command, commands: Mapping[str, Command]) -> tuple[str, ...]:
    """The words that may follow a command: `bash|zsh|fish`, or a command of the table."""
    if command.takes == "[COMMAND]":
        return tuple(commands)
    return tuple(command.takes.split("|")) if "|" in command.takes else ()


def _names_files(command: Command) -> bool:
    """May a file follow: FILE itself, or TARGET, which is a process, an address or a recording?"""
    return re.search(r"\b(FILE|TARGET)\b", command.takes) is not None


# --------------------------------------------------------------------------------------------------------- bash

BASH = """\
# bash completion of fastserve @VERSION@, printed by: fastserve completion bash
_fastserve_apps() {
    @FIND@
}
_fastserve() {
    # What stands before the cursor, split at blanks: bash itself splits at = and : as well.
    local line=${COMP_LINE:0:COMP_POINT} IFS=$' \\t\\n' cut='' options apps='' files='' words
    local -a typed
    read -ra typed <<< "$line"
    [[ $line == *[[:space:]] ]] && typed+=('')
    local count=${#typed[@]}
    local word=${typed[count-1]} before=${typed[count-2]} command=${typed[1]}
    if [[ $word == --*=* ]]; then
        before=${word%%=*}
        [[ $COMP_WORDBREAKS == *=* ]] || cut=$before=
        word=${word#*=}
    fi
    IFS=$'\\n'
    COMPREPLY=()
    case $before in
@VALUES@
    esac
    options='@OPTIONS@' words=''
    ((count > 2)) || command=''
    case $command in
@COMMANDS@
        '') words='@NAMES@' apps=yes ;;
    esac
    if [[ $word == -* ]]; then
        IFS=$' \\n'
        COMPREPLY=($(compgen -W "$options" -- "$word"))
        return
    fi
    if [[ -n $files ]]; then
        compopt -o filenames 2> /dev/null
        COMPREPLY=($(compgen -f -- "$word"))
        return
    fi
    [[ -n $apps ]] && words+=" "$(_fastserve_apps)
    IFS=$' \\n'
    COMPREPLY=($(compgen -W "$words" -- "$word"))
    if [[ $word == *:* && $COMP_WORDBREAKS == *:* ]]; then
        COMPREPLY=("${COMPREPLY[@]#"${word%:*}:"}")
    fi
}
complete -F _fastserve fastserve
"""

BASH_VALUES = {
    "files": 'compopt -o filenames 2> /dev/null; COMPREPLY=($(compgen -P "$cut" -f -- "$word"))',
    "folders": 'compopt -o filenames 2> /dev/null; COMPREPLY=($(compgen -P "$cut" -d -- "$word"))',
    "users": 'COMPREPLY=($(compgen -P "$cut" -u -- "$word"))',
    "groups": 'COMPREPLY=($(compgen -P "$cut" -g -- "$word"))',
    "": ":",
}


def bash(commands: Mapping[str, Command]) -> str:
    values: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for flag in [*of_options(), *(flag for command in commands.values() for flag in _of_command(command))]:
        if flag.takes is not None:
            spellings = values.setdefault((flag.takes, flag.words), [])
            spellings += [flag.text] if flag.text not in spellings else []
    cases = []
    for (takes, words), spellings in values.items():
        does = BASH_VALUES.get(takes) or f'IFS=" "; COMPREPLY=($(compgen -P "$cut" -W "{" ".join(words)}" -- "$word"))'
        cases.append(f"        {'|'.join(spellings)}) {does}; return ;;")
    of_commands = []
    for name, command in commands.items():
        own = " ".join(flag.text for flag in _of_command(command))
        if command.serves:
            more = f"options+=' {own}' " if own else ""
            of_commands.append(f"        {name}) {more}apps=yes ;;")
        else:
            files = " files=yes" if _names_files(command) else ""
            follow = " ".join(_words_of(command, commands))
            of_commands.append(f"        {name}) options='{own}' words='{follow}'{files} ;;")
    return _filled(
        BASH,
        VALUES="\n".join(cases),
        OPTIONS=" ".join(flag.text for flag in of_options()),
        COMMANDS="\n".join(of_commands),
        NAMES=" ".join(commands),
    )


# ---------------------------------------------------------------------------------------------------------- zsh

ZSH = """\
#compdef fastserve
# zsh completion of fastserve @VERSION@, printed by: fastserve completion zsh
_fastserve_apps() {
    local -a apps=(${(f)"$(@FIND@)"})
    compadd -a apps
}
_fastserve() {
    local -a options=(
@OPTIONS@
    )
    local -a commands=(
@NAMES@
    )
    if (( CURRENT == 2 )) && [[ $words[2] != -* ]]; then
        _describe -t commands command commands
        _fastserve_apps
        return
    fi
    case $words[2] in
@COMMANDS@
        *) _arguments $options '1:application:_fastserve_apps' ;;
    esac
}
if [[ $funcstack[1] == _fastserve ]]; then
    _fastserve "$@"
else
    compdef _fastserve fastserve
fi
"""

ZSH_VALUES = {"files": "_files", "folders": "_files -/", "users": "_users", "groups": "_groups", "": " "}


def _zsh_flag(flag: Flag) -> str:
    about = "".join("\\" + letter if letter in "[]:\\" else letter for letter in flag.about)
    if flag.takes is None:
        return _quoted(f"*{flag.text}[{about}]")
    offered = f"({' '.join(flag.words)})" if flag.takes == "words" else ZSH_VALUES[flag.takes]
    metavar = (flag.metavar or "value").replace(":", r"\:")
    return _quoted(f"*{flag.text}{'=' if flag.text.startswith('--') else '+'}[{about}]:{metavar}:{offered}")


def zsh(commands: Mapping[str, Command]) -> str:
    of_commands = []
    for name, command in commands.items():
        own = " ".join(map(_zsh_flag, _of_command(command)))
        words = _words_of(command, commands)
        if command.serves:
            rest = f"$options {own} '1:application:_fastserve_apps'"
        else:
            after = (
                f"'1:word:({' '.join(words)})'" if words else "'*:file:_files'" if _names_files(command) else "'*: :'"
            )
            rest = f"{own} {after}".lstrip()
        of_commands.append(f"        {name}) shift words; (( CURRENT-- )); _arguments {rest} ;;")
    return _filled(
        ZSH,
        OPTIONS="\n".join(f"        {_zsh_flag(flag)}" for flag in of_options()),
        NAMES="\n".join(f"        {_quoted(f'{name}:{command.about}')}" for name, command in commands.items()),
        COMMANDS="\n".join(of_commands),
    )


# --------------------------------------------------------------------------------------------------------- fish

FISH = """\
# fish completion of fastserve @VERSION@, printed by: fastserve completion fish
function __fastserve_apps
    @FIND@
end
function __fastserve_first
    test (count (commandline -opc)) -eq 1
end
function __fastserve_command
    set -l typed (commandline -opc)
    test (count $typed) -gt 1; and contains -- $typed[2] $argv
end
complete -c fastserve -f
@NAMES@
complete -c fastserve -n 'not __fastserve_command @OTHERS@' -a '(__fastserve_apps)' -d application
@OPTIONS@
@COMMANDS@
"""

FISH_VALUES = {
    "files": "-r -F",
    "folders": "-x -a '(__fish_complete_directories)'",
    "users": "-x -a '(__fish_complete_users)'",
    "groups": "-x -a '(__fish_complete_groups)'",
    "": "-x",
}


def _fish_flag(flag: Flag, condition: str) -> str:
    name = f"-l {flag.text[2:]}" if flag.text.startswith("--") else f"-s {flag.text[1:]}"
    value = ""
    if flag.takes is not None:
        value = f"-x -a {_quoted(' '.join(flag.words))}" if flag.takes == "words" else FISH_VALUES[flag.takes]
    # In fish a backslash inside single quotes is one only before a quote or another: none is in our texts.
    about = flag.about.replace("'", r"\'")
    return f"complete -c fastserve -n {_quoted(condition)} {name} {value} -d '{about}'".replace("  ", " ")


def fish(commands: Mapping[str, Command]) -> str:
    others = " ".join(name for name, command in commands.items() if not command.serves)
    of_commands = []
    for name, command in commands.items():
        condition = f"__fastserve_command {name}"
        of_commands += [_fish_flag(flag, condition) for flag in _of_command(command)]
        if words := _words_of(command, commands):
            of_commands.append(f"complete -c fastserve -n {_quoted(condition)} -a {_quoted(' '.join(words))}")
        elif _names_files(command):
            of_commands.append(f"complete -c fastserve -n {_quoted(condition)} -F")
    return _filled(
        FISH,
        NAMES="\n".join(
            f"complete -c fastserve -n __fastserve_first -a {name} -d {_quoted(command.about)}"
            for name, command in commands.items()
        ),
        OTHERS=others,
        OPTIONS="\n".join(_fish_flag(flag, f"not __fastserve_command {others}") for flag in of_options()),
        COMMANDS="\n".join(of_commands),
    )


# ------------------------------------------------------------------------------------------------------- pieces


def _quoted(text: str) -> str:
    """In single quotes, for any of the three."""
    return "'" + text.replace("'", "'\\''") + "'"


def _filled(template: str, **pieces: str) -> str:
    for name, piece in {"VERSION": __version__, "FIND": FIND_APPS, **pieces}.items():
        template = template.replace(f"@{name}@", piece)
    return template


SHELLS: dict[str, Callable[[Mapping[str, Command]], str]] = {"bash": bash, "zsh": zsh, "fish": fish}
