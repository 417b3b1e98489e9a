# Completion of mailproxy for fish. Made by: mailproxy completion fish

# Print the command on the line, such as: check
function __mailproxy_command
    set -l path
    for word in (commandline -opc)[2..]
        if contains -- (string join ' ' $path $word) certs 'certs list' 'certs obtain' 'certs revoke' 'certs test' 'certs tlsa' check completion ctl demo explain import run schema top
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
        else if test -z "$words"; and contains -- $word --socket -s --config -c
            set skip yes
        else
            set -a words $word
        end
    end
    set -l before (string join ' ' $words '')
    test -n "$words"; or set before ''
    for line in \
        'acme status' \
        'cancel drain frontend' \
        'cancel drain server' \
        'clear counters' \
        'clear table' \
        'disable frontend' \
        'disable health' \
        'disable server' \
        'drain frontend' \
        'drain server' \
        'enable frontend' \
        'enable health' \
        'enable server' \
        explain \
        'get weight' \
        hand-over \
        operator \
        reload \
        'set maxconn frontend' \
        'set maxconn global' \
        'set maxconn server' \
        'set server' \
        'set severity-output' \
        'set table' \
        'set timeout' \
        'set weight' \
        'show backend' \
        'show cli level' \
        'show drain' \
        'show env' \
        'show errors' \
        'show events' \
        'show info' \
        'show reload' \
        'show servers conn' \
        'show servers state' \
        'show sess' \
        'show ssl cert' \
        'show stat' \
        'show table' \
        'show version' \
        'shutdown frontend' \
        'shutdown session' \
        'shutdown sessions server' \
        tail \
        user \
        help \
        prompt \
        quit
        if string match -q -- "$before*" $line
            string sub -s (math (string length -- $before) + 1) -- $line | string split -f 1 ' '
        end
    end
end

complete -c mailproxy -f
complete -c mailproxy -n __mailproxy_at -a certs -d 'List, obtain and revoke certificates'
complete -c mailproxy -n __mailproxy_at -a check -d 'List the faults of a configuration, and advice'
complete -c mailproxy -n __mailproxy_at -a completion -d 'Print a script for shell completion'
complete -c mailproxy -n __mailproxy_at -a ctl -d 'Send a command to the running proxy, such as: show stat'
complete -c mailproxy -n __mailproxy_at -a demo -d 'Run the proxy with two demo servers'
complete -c mailproxy -n __mailproxy_at -a explain -d 'Explain which server a client would get, and why'
complete -c mailproxy -n __mailproxy_at -a import -d 'Translate the configuration of HAProxy, nginx, Caddy or Traefik, and print it'
complete -c mailproxy -n __mailproxy_at -a run -d 'Run the proxy in the foreground'
complete -c mailproxy -n __mailproxy_at -a schema -d 'Print the JSON Schema of the configuration, for editors'
complete -c mailproxy -n __mailproxy_at -a top -d 'Show the running proxy live in the terminal: servers, backends, frontends, sessions'
complete -c mailproxy -n __mailproxy_at -l version -d 'Show the version and exit'
complete -c mailproxy -n __mailproxy_at -s h -l help -d 'Show this message and exit'
complete -c mailproxy -n '__mailproxy_at certs' -a list -d 'List every name with the end of its certificate, and the attempts to obtain it'
complete -c mailproxy -n '__mailproxy_at certs' -a obtain -d 'Obtain certificates now, even if they are not due'
complete -c mailproxy -n '__mailproxy_at certs' -a revoke -d 'Revoke the certificates of these names'
complete -c mailproxy -n '__mailproxy_at certs' -a test -d 'Obtain certificates from the authority'"'"'s test directory, and keep nothing'
complete -c mailproxy -n '__mailproxy_at certs' -a tlsa -d 'Print the TLSA records of the keys in use, and of next keys, as lines of a zone file'
complete -c mailproxy -n '__mailproxy_at certs' -s h -l help -d 'Show this message and exit'
complete -c mailproxy -n '__mailproxy_at certs list' -s h -l help -d 'Show this message and exit'
complete -c mailproxy -n '__mailproxy_at certs list' -F
complete -c mailproxy -n '__mailproxy_at certs obtain' -s h -l help -d 'Show this message and exit'
complete -c mailproxy -n '__mailproxy_at certs obtain' -F
complete -c mailproxy -n '__mailproxy_at certs revoke' -l reason -r -f -a 'unspecified key-compromise superseded cessation-of-operation' -d Why
complete -c mailproxy -n '__mailproxy_at certs revoke' -s h -l help -d 'Show this message and exit'
complete -c mailproxy -n '__mailproxy_at certs revoke' -F
complete -c mailproxy -n '__mailproxy_at certs test' -s h -l help -d 'Show this message and exit'
complete -c mailproxy -n '__mailproxy_at certs test' -F
complete -c mailproxy -n '__mailproxy_at certs tlsa' -s h -l help -d 'Show this message and exit'
complete -c mailproxy -n '__mailproxy_at certs tlsa' -F
complete -c mailproxy -n '__mailproxy_at check' -l strict -d 'Exit with 1 if there is advice'
complete -c mailproxy -n '__mailproxy_at check' -l live -d 'Resolve and check every server once, and print a table'
complete -c mailproxy -n '__mailproxy_at check' -l format -r -f -a 'text json' -d 'With json, print one list of faults and advice on standard output, for programs'
complete -c mailproxy -n '__mailproxy_at check' -l quiet -s q -d 'Print faults and advice only, no table and no summary'
complete -c mailproxy -n '__mailproxy_at check' -s h -l help -d 'Show this message and exit'
complete -c mailproxy -n '__mailproxy_at check' -F
complete -c mailproxy -n '__mailproxy_at completion' -s h -l help -d 'Show this message and exit'
complete -c mailproxy -n '__mailproxy_at completion' -f -a 'bash zsh fish'
complete -c mailproxy -n '__mailproxy_at ctl' -l socket -s s -r -f -d 'The admin socket: a path or HOST:PORT'
complete -c mailproxy -n '__mailproxy_at ctl' -l config -s c -r -F -d 'Take the admin socket from this configuration'
complete -c mailproxy -n '__mailproxy_at ctl' -s h -l help -d 'Show this message and exit'
complete -c mailproxy -n '__mailproxy_at ctl' -a '(__mailproxy_runtime_words)'
complete -c mailproxy -n '__mailproxy_at demo' -l port-base -r -f -d 'The first of three ports to listen on'
complete -c mailproxy -n '__mailproxy_at demo' -s h -l help -d 'Show this message and exit'
complete -c mailproxy -n '__mailproxy_at explain' -l client -r -f -d 'The client'"'"'s IP address; behind a PROXY header, the one in it'
complete -c mailproxy -n '__mailproxy_at explain' -l port -r -f -d 'The port that it connects to'
complete -c mailproxy -n '__mailproxy_at explain' -l bind -r -f -d 'The bind, where several have the port, or where it has none'
complete -c mailproxy -n '__mailproxy_at explain' -l sni -r -f -d 'The server name that it asks for in TLS'
complete -c mailproxy -n '__mailproxy_at explain' -l alpn -r -f -d 'An application protocol that it offers; may be repeated'
complete -c mailproxy -n '__mailproxy_at explain' -l at -r -f -d 'States of servers: up, down, ready, drain or maint'
complete -c mailproxy -n '__mailproxy_at explain' -l format -r -f -a 'text json' -d 'With json, print one object on standard output, for programs'
complete -c mailproxy -n '__mailproxy_at explain' -s h -l help -d 'Show this message and exit'
complete -c mailproxy -n '__mailproxy_at explain' -F
complete -c mailproxy -n '__mailproxy_at import' -l output -s o -r -F -d 'Write the configuration to this file'
complete -c mailproxy -n '__mailproxy_at import' -l report -d 'Report as a table: file, line, directive, what was done'
complete -c mailproxy -n '__mailproxy_at import' -l strict -d 'Exit with 1 if there are losses'
complete -c mailproxy -n '__mailproxy_at import' -l diff -d 'Print each line of the files beside what it became'
complete -c mailproxy -n '__mailproxy_at import' -l mend -d 'Replace values that are traps for mail with the defaults'
complete -c mailproxy -n '__mailproxy_at import' -s h -l help -d 'Show this message and exit'
complete -c mailproxy -n '__mailproxy_at import' -f -a 'haproxy nginx caddy traefik'
complete -c mailproxy -n '__mailproxy_at import' -F
complete -c mailproxy -n '__mailproxy_at run' -l replace -d 'Take the listening sockets over from the running instance, which then drains and ends'
complete -c mailproxy -n '__mailproxy_at run' -s h -l help -d 'Show this message and exit'
complete -c mailproxy -n '__mailproxy_at run' -F
complete -c mailproxy -n '__mailproxy_at schema' -s h -l help -d 'Show this message and exit'
complete -c mailproxy -n '__mailproxy_at top' -l socket -s s -r -f -d 'The admin socket: a path or HOST:PORT'
complete -c mailproxy -n '__mailproxy_at top' -l config -s c -r -F -d 'Take the admin socket from this configuration'
complete -c mailproxy -n '__mailproxy_at top' -l interval -r -f -d 'How often figures are asked for'
complete -c mailproxy -n '__mailproxy_at top' -s h -l help -d 'Show this message and exit'
