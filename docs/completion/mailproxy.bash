# Completion of mailproxy for bash. Made by: mailproxy completion bash
_mailproxy() {
    local cur=${COMP_WORDS[COMP_CWORD]} path= words= previous= count=0 i word values
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if [[ $word == = ]]; then continue; fi  # bash takes --format=json for three words
        if [[ $previous ]]; then previous=; continue; fi
        case "${path:+$path }$word" in
            certs|'certs list'|'certs obtain'|'certs revoke'|'certs test'|'certs tlsa'|check|completion|ctl|demo|explain|import|run|schema|top)
                path=${path:+$path }$word; continue ;;
        esac
        case "$path/$word" in
            'certs revoke/--reason'|check/--format|ctl/--socket|ctl/-s|ctl/--config|ctl/-c|demo/--port-base|explain/--client|explain/--port|explain/--bind|explain/--sni|explain/--alpn|explain/--at|explain/--format|import/--output|import/-o|top/--socket|top/-s|top/--config|top/-c|top/--interval)
                previous=$path/$word ;;
            */-*) ;;
            *) words+="$word "; ((count++)) ;;
        esac
    done
    if [[ $cur == = ]]; then cur=; fi
    values=
    if [[ $previous ]]; then
        case $previous in
            'certs revoke/--reason') values='unspecified key-compromise superseded cessation-of-operation' ;;
            check/--format) values='text json' ;;
            ctl/--config|ctl/-c) values=@file ;;
            explain/--format) values='text json' ;;
            import/--output|import/-o) values=@file ;;
            top/--config|top/-c) values=@file ;;
            *) return ;;
        esac
    elif [[ $cur == -* && ! ( $path == ctl && $words ) ]]; then
        case $path in
            '') values='--version -h --help' ;;
            certs) values='-h --help' ;;
            'certs list') values='-h --help' ;;
            'certs obtain') values='-h --help' ;;
            'certs revoke') values='--reason -h --help' ;;
            'certs test') values='-h --help' ;;
            'certs tlsa') values='-h --help' ;;
            check) values='--strict --live --format --quiet -q -h --help' ;;
            completion) values='-h --help' ;;
            ctl) values='--socket -s --config -c -h --help' ;;
            demo) values='--port-base -h --help' ;;
            explain) values='--client --port --bind --sni --alpn --at --format -h --help' ;;
            import) values='--output -o --report --strict --diff --mend -h --help' ;;
            run) values='--replace -h --help' ;;
            schema) values='-h --help' ;;
            top) values='--socket -s --config -c --interval -h --help' ;;
        esac
    else
        case "$path/$count" in
            /0) values='certs check completion ctl demo explain import run schema top' ;;
            certs/0) values='list obtain revoke test tlsa' ;;
            'certs list/'0) values=@file ;;
            'certs obtain/'0) values=@file ;;
            'certs revoke/'0) values=@file ;;
            'certs test/'0) values=@file ;;
            'certs tlsa/'0) values=@file ;;
            check/0) values=@file ;;
            completion/0) values='bash zsh fish' ;;
            ctl/*) values=@ctl ;;
            explain/0) values=@file ;;
            import/0) values='haproxy nginx caddy traefik' ;;
            import/*) values=@file ;;
            run/0) values=@file ;;
        esac
    fi
    case $values in
        @file) compopt -o default ;;
        @ctl) mapfile -t COMPREPLY < <(compgen -W "$(_mailproxy_runtime_words "$words")" -- "$cur") ;;
        *) mapfile -t COMPREPLY < <(compgen -W "$values" -- "$cur") ;;
    esac
}

# Print the words that follow some words of a command to the running proxy.
_mailproxy_runtime_words() {
    local line
    while read -r line; do
        if [[ $line == "$1"* ]]; then
            line=${line#"$1"}
            echo "${line%% *}"
        fi
    done <<'END'
acme status
cancel drain frontend
cancel drain server
clear counters
clear table
disable frontend
disable health
disable server
drain frontend
drain server
enable frontend
enable health
enable server
explain
get weight
hand-over
operator
reload
set maxconn frontend
set maxconn global
set maxconn server
set server
set severity-output
set table
set timeout
set weight
show backend
show cli level
show drain
show env
show errors
show events
show info
show reload
show servers conn
show servers state
show sess
show ssl cert
show stat
show table
show version
shutdown frontend
shutdown session
shutdown sessions server
tail
user
help
prompt
quit
END
}

complete -F _mailproxy mailproxy
