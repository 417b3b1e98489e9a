"""Completion for bash, zsh and fish, made from the program's own commands and options.

The scripts hold all words, and start no program when the user presses Tab. They follow what each shell's
users expect: descriptions in zsh and fish, the shell's own completion for files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from shlex import quote

import click
from attrs import field, frozen

Words = Sequence[tuple[str, ...]]
"""The words of each command of the admin socket."""


@frozen
class _Command:
    """A command, or a group of commands.

    Attributes:
        path: The words from the program to it, none for the program itself.
        definition: The command, as click has it.
        context: For its parameters.
    """

    path: tuple[str, ...]
    definition: click.Command
    context: click.Context = field(repr=False)

    @property
    def name(self) -> str:
        return " ".join(self.path)

    @property
    def help(self) -> str:
        """The first sentence of its help."""
        return _first_sentence(self.definition.help or "")

    @property
    def options(self) -> list[click.Option]:
        """Its options."""
        return [each for each in self.definition.get_params(self.context) if isinstance(each, click.Option)]

    @property
    def arguments(self) -> list[click.Argument]:
        """Its arguments."""
        return [each for each in self.definition.get_params(self.context) if isinstance(each, click.Argument)]

    @property
    def subcommands(self) -> list[_Command]:
        """Its commands, if it is a group."""
        if not isinstance(self.definition, click.Group):
            return []
        return [
            _Command((*self.path, name), each, click.Context(each, self.context, name))
            for name, each in sorted(self.definition.commands.items())
        ]

    @property
    def is_ctl(self) -> bool:
        """Whether its arguments are a command of the admin socket."""
        return self.path == ("ctl",)

    def walk(self) -> Iterator[_Command]:
        """Yield the command and all below it."""
        yield self
        for each in self.subcommands:
            yield from each.walk()


def completion_script(shell: str, program: click.Group, runtime_words: Words) -> str:
    """Return the completion of a program for ``bash``, ``zsh`` or ``fish``.

    Args:
        shell: The shell.
        program: The program's commands.
        runtime_words: The words of each command that ``ctl`` can send.
    """
    root = _Command((), program, click.Context(program, info_name="mailproxy", **program.context_settings))
    write: Callable[[_Command, Words], str] = _WRITERS[shell]
    return write(root, runtime_words)


def _first_sentence(text: str) -> str:
    return re.split(r"\.(?:\s|$)", " ".join(text.split()), maxsplit=1)[0]


def _takes_file(parameter: click.Parameter) -> bool:
    return isinstance(parameter.type, click.Path | click.File)


def _choices(parameter: click.Parameter) -> list[str]:
    return [str(each) for each in parameter.type.choices] if isinstance(parameter.type, click.Choice) else []


def _names(option: click.Option) -> list[str]:
    return [*option.opts, *option.secondary_opts]


def _takes_value(option: click.Option) -> bool:
    return not (option.is_flag or option.count)


def _metavar(option: click.Option) -> str:
    return option.metavar or (option.name or "value").upper()


def _table(words: Words) -> str:
    return "\n".join(dict.fromkeys(" ".join(each) for each in words))


# bash

_BASH = """\
# Completion of mailproxy for bash. Made by: mailproxy completion bash
_mailproxy() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} path= words= previous= count=0 i word values
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${{COMP_WORDS[i]}}
        if [[ $word == = ]]; then continue; fi  # bash takes --format=json for three words
        if [[ $previous ]]; then previous=; continue; fi
        case "${{path:+$path }}$word" in
{paths}
                path=${{path:+$path }}$word; continue ;;
        esac
        case "$path/$word" in
{valued}
                previous=$path/$word ;;
            */-*) ;;
            *) words+="$word "; ((count++)) ;;
        esac
    done
    if [[ $cur == = ]]; then cur=; fi
    values=
    if [[ $previous ]]; then
        case $previous in
{values}
            *) return ;;
        esac
    elif [[ $cur == -* && ! ( $path == ctl && $words ) ]]; then
        case $path in
{options}
        esac
    else
        case "$path/$count" in
{arguments}
        esac
    fi
    case $values in
        @file) compopt -o default ;;
        @ctl) mapfile -t COMPREPLY < <(compgen -W "$(_mailproxy_runtime_words "$words")" -- "$cur") ;;
        *) mapfile -t COMPREPLY < <(compgen -W "$values" -- "$cur") ;;
    esac
}}

# Print the words that follow some words of a command to the running proxy.
_mailproxy_runtime_words() {{
    local line
    while read -r line; do
        if [[ $line == "$1"* ]]; then
            line=${{line#"$1"}}
            echo "${{line%% *}}"
        fi
    done <<'END'
{table}
END
}}

complete -F _mailproxy mailproxy
"""


def _write_bash(root: _Command, words: Words) -> str:
    arms: dict[str, list[str]] = {"paths": [], "valued": [], "values": [], "options": [], "arguments": []}
    for command in root.walk():
        if command.path:
            arms["paths"].append(quote(command.name))
        names = []
        for option in command.options:
            names += _names(option)
            if _takes_value(option):
                keys = [quote(f"{command.name}/{name}") for name in _names(option)]
                arms["valued"] += keys
                if values := _bash_values(option):
                    arms["values"].append(f"            {'|'.join(keys)}) values={values} ;;")
        arms["options"].append(f"            {quote(command.name)}) values={quote(' '.join(names))} ;;")
        arms["arguments"] += _bash_arguments(command)
    patterns = {
        name: "            " + "|".join(arms[name]) + ")" for name in ("paths", "valued") if arms[name]
    }
    rest = {name: "\n".join(arms[name]) for name in ("values", "options", "arguments")}
    return _BASH.format(**patterns, **rest, table=_table(words))


def _bash_values(parameter: click.Parameter) -> str:
    return (
        "@file"
        if _takes_file(parameter)
        else quote(" ".join(choices))
        if (choices := _choices(parameter))
        else ""
    )


def _bash_arguments(command: _Command) -> Iterator[str]:
    if command.subcommands:
        values = quote(" ".join(each.path[-1] for each in command.subcommands))
        yield f"            {quote(f'{command.name}/0')}) values={values} ;;"
    for index, argument in enumerate(command.arguments):
        values = "@ctl" if command.is_ctl else _bash_values(argument)
        if values:
            number = "*" if argument.nargs == -1 else str(index)
            yield f"            {quote(f'{command.name}/')}{number}) values={values} ;;"


# zsh

_ZSH = """\
#compdef mailproxy
# Completion of mailproxy for zsh. Made by: mailproxy completion zsh

{functions}

# Complete a word of a command to the running proxy.
_mailproxy_runtime() {{
    local before="${{(j: :)words[1,CURRENT-1]}}" line
    local -a lines following
    before=${{before:+$before }}
    lines=(
{table}
    )
    for line in $lines; do
        if [[ $line == ${{(b)before}}* ]]; then following+=(${{${{line#$before}}%% *}}); fi
    done
    compadd -a following
}}

# Both for fpath and for: source <(mailproxy completion zsh)
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _mailproxy "$@"
else
    compdef _mailproxy mailproxy
fi
"""


def _write_zsh(root: _Command, words: Words) -> str:
    functions = "\n\n".join(_zsh_function(command) for command in root.walk())
    return _ZSH.format(
        functions=functions, table="\n".join(f"        {quote(line)}" for line in _table(words).splitlines())
    )


def _zsh_function(command: _Command) -> str:
    lines = [quote(each) for option in command.options for each in _zsh_options(option)]
    body = " \\\n        ".join
    name = "_".join(["_mailproxy", *command.path]).replace("-", "_")
    if not command.subcommands:
        lines += [quote(each) for each in _zsh_arguments(command)]
        separator = " -A '-*'" if command.is_ctl else ""
        return f"{name}() {{\n    _arguments -s{separator} \\\n        {body(lines)}\n}}"
    lines += ["'1:command:->command'", "'*::argument:->argument'"]
    described = "\n".join(
        f"                {quote(f'{_zsh_text(each.path[-1])}:{each.help}')}" for each in command.subcommands
    )
    called = "\n".join(
        f"                {each.path[-1]}) {'_'.join(['_mailproxy', *each.path]).replace('-', '_')} ;;"
        for each in command.subcommands
    )
    return f"""{name}() {{
    local curcontext=$curcontext state line
    local -a commands
    typeset -A opt_args
    _arguments -C \\
        {body(lines)}
    case $state in
        command)
            commands=(
{described}
            )
            _describe command commands ;;
        argument)
            case $words[1] in
{called}
            esac ;;
    esac
}}"""


def _zsh_options(option: click.Option) -> Iterator[str]:
    names = _names(option)
    others = f"({' '.join(names)})" if len(names) > 1 else ""
    for name in names:
        value = f":{_zsh_text(_metavar(option))}:{_zsh_action(option)}" if _takes_value(option) else ""
        equals = "=" if value and name.startswith("--") else ""
        yield f"{others}{name}{equals}[{_zsh_text(_first_sentence(option.help or ''))}]{value}"


def _zsh_arguments(command: _Command) -> Iterator[str]:
    for index, argument in enumerate(command.arguments, 1):
        if command.is_ctl:
            yield "*::command:_mailproxy_runtime"
        else:
            number = "*" if argument.nargs == -1 else str(index)
            yield f"{number}:{_zsh_text(argument.name or '')}:{_zsh_action(argument)}"


def _zsh_action(parameter: click.Parameter) -> str:
    return (
        "_files"
        if _takes_file(parameter)
        else f"({' '.join(choices)})"
        if (choices := _choices(parameter))
        else " "
    )


def _zsh_text(text: str) -> str:
    return re.sub(r"([\[\]:\\])", r"\\\1", text)


# fish

_FISH = """\
# Completion of mailproxy for fish. Made by: mailproxy completion fish

# Print the command on the line, such as: check
function __mailproxy_command
    set -l path
    for word in (commandline -opc)[2..]
        if contains -- (string join ' ' $path $word) {paths}
            set -a path $word
        end
    end
    string join ' ' $path
end

function __mailproxy_at
    test (__mailproxy_command | string collect --allow-empty) = "$argv"
end

# Print the words that follow in a command to the running proxy.
function __mailproxy_runtime_words
    set -l words
    set -l skip
    for word in (commandline -opc)[3..]
        if test -n "$skip"
            set skip
        else if test -z "$words"; and contains -- $word {valued}
            set skip yes
        else
            set -a words $word
        end
    end
    set -l before (string join ' ' $words '')
    test -n "$words"; or set before ''
    for line in \\
{table}
        if string match -q -- "$before*" $line
            string sub -s (math (string length -- $before) + 1) -- $line | string split -f 1 ' '
        end
    end
end

complete -c mailproxy -f
{lines}
"""


def _write_fish(root: _Command, words: Words) -> str:
    commands = list(root.walk())
    paths = " ".join(quote(each.name) for each in commands if each.path)
    valued = " ".join(
        name
        for command in commands if command.is_ctl
        for option in command.options if _takes_value(option)
        for name in _names(option)
    )  # fmt: skip
    table = " \\\n".join(f"        {quote(line)}" for line in _table(words).splitlines())
    lines = "\n".join(line for each in commands for line in _fish_lines(each))
    return _FISH.format(paths=paths, valued=valued, table=table, lines=lines)


def _fish_lines(command: _Command) -> Iterator[str]:
    head = f"complete -c mailproxy -n {quote(f'__mailproxy_at {command.name}'.strip())}"
    for each in command.subcommands:
        yield f"{head} -a {quote(each.path[-1])} -d {quote(each.help)}"
    for option in command.options:
        names = " ".join(
            f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in _names(option)
        )
        value = f" -r{_fish_values(option) or ' -f'}" if _takes_value(option) else ""
        yield f"{head} {names}{value} -d {quote(_first_sentence(option.help or ''))}"
    for argument in command.arguments:
        values = " -a '(__mailproxy_runtime_words)'" if command.is_ctl else _fish_values(argument)
        if values:
            yield f"{head}{values}"


def _fish_values(parameter: click.Parameter) -> str:
    return (
        " -F"
        if _takes_file(parameter)
        else f" -f -a {quote(' '.join(choices))}"
        if (choices := _choices(parameter))
        else ""
    )


_WRITERS: Mapping[str, Callable[[_Command, Words], str]] = {
    "bash": _write_bash,
    "zsh": _write_zsh,
    "fish": _write_fish,
}
