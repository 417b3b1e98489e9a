/* The load: both ends of the mail sessions with which proxies are weighed, the clients and a stub of an IMAP server.
 *
 *   load server                                   listens on three free ports of 127.0.0.1, prints them, ends with its stdin
 *   load sessions  PORT --count N --at-once N     whole sessions: greeting, LOGIN, LOGOUT, end of file
 *   load trips     PORT --count N --seconds S     N sessions send NOOP, each as soon as the last one is answered
 *   load bulk-down PORT --count N --bytes B       N sessions receive B bytes each
 *   load bulk-up   PORT --count N --bytes B       N sessions send B bytes each
 *   load idle      PORT --count N                 N sessions log in and fall silent
 *
 * --tls: the clients speak TLS, each with a full handshake, to whatever certificate.
 * --hello: the first that a client sends is a ClientHello for imap.example.com, as data: it is there to be looked at, and
 * the session goes on in clear.
 *
 * The server's second port is for sessions that begin with a preamble: a PROXY header of either version, or one TLS record
 * with the clients' hello. The server swallows it, whole, and only then greets. At its third port it takes two of them.
 *
 * The clients go through three stages, so that the proxy can be weighed between any two of them. Each ends with one
 * line of JSON on stdout and goes on when a line comes on stdin:
 *
 *   ready    every session is logged in ("sessions" has nothing to do here)
 *   worked   the work is done, every session is still there
 *   closed   every session has ended
 *
 * A session that ends otherwise than its mode says has failed. The first reason goes to stderr, the number into the
 * JSON, and the exit code is 1. Wrong use is 2.
 *
 *   cc -O2 -Wall -Wextra -o load load.c -lssl -lcrypto            (OpenSSL 3.0 or later)
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    LINE_BYTES = 512,        /* longest line either side may send; ours have under 60 */
    SLICE_BYTES = 256 * 1024,
    EVENTS = 256,
    HELLO_BYTES = 16 * 1024, /* room for our one ClientHello; OpenSSL's have some hundred bytes, post-quantum ones 1600 */
    OPENING_AT_ONCE = 64,    /* sessions on their way to "ready": more would measure the listen queue */
    STAGE_SECONDS = 120,     /* a stage that takes longer has sessions that hang */
};

static const char SERVER_NAME[] = "imap.example.com";

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void *zeroed(size_t count, size_t size)
{
    void *memory = calloc(count, size);
    if (!memory) die("memory");
    return memory;
}

/* ---------------------------------------------------------------- wire: one socket, in clear or under TLS */

/* What a move on a wire came to. GO: something moved, try the next. ENDED: the other side closed in order. */
enum step { GO, AWAIT_INPUT, AWAIT_ROOM, ENDED, BROKEN };

struct wire {
    int fd;
    SSL *ssl;                /* NULL: clear */
    bool handshaking;
    uint32_t watched;
    char in[LINE_BYTES];
    size_t have;
    char out[LINE_BYTES];
    size_t queued, sent;
};

static int poller;
static SSL_CTX *tls;         /* NULL: the clients speak in clear */
static char fault[256];      /* why the last step was BROKEN */

static enum step tls_step(struct wire *w, int result)
{
    switch (SSL_get_error(w->ssl, result)) {
    case SSL_ERROR_WANT_READ: return AWAIT_INPUT;
    case SSL_ERROR_WANT_WRITE: return AWAIT_ROOM;
    case SSL_ERROR_ZERO_RETURN: return ENDED;
    case SSL_ERROR_SYSCALL:
        snprintf(fault, sizeof fault, "%s", strerror(errno));
        return BROKEN;
    default:
        ERR_error_string_n(ERR_peek_last_error(), fault, sizeof fault);
        return BROKEN;
    }
}

static enum step clear_step(ssize_t result, enum step when_blocked)
{
    if (result > 0) return GO;
    if (result == 0) return ENDED;
    if (errno == EAGAIN) return when_blocked;
    snprintf(fault, sizeof fault, "%s", strerror(errno));
    return BROKEN;
}

static enum step wire_read(struct wire *w, void *into, size_t room, size_t *got)
{
    if (!w->ssl) {
        ssize_t n = recv(w->fd, into, room, 0);
        *got = n > 0 ? (size_t)n : 0;
        return clear_step(n, AWAIT_INPUT);
    }
    ERR_clear_error();
    return SSL_read_ex(w->ssl, into, room, got) ? GO : tls_step(w, 0);
}

static enum step wire_write(struct wire *w, const void *from, size_t size, size_t *gone)
{
    if (!w->ssl) {
        ssize_t n = send(w->fd, from, size, MSG_NOSIGNAL);
        *gone = n > 0 ? (size_t)n : 0;
        return clear_step(n, AWAIT_ROOM);
    }
    ERR_clear_error();
    return SSL_write_ex(w->ssl, from, size, gone) ? GO : tls_step(w, 0);
}

static enum step wire_handshake(struct wire *w)
{
    ERR_clear_error();
    int result = SSL_do_handshake(w->ssl);
    if (result == 1) {
        w->handshaking = false;
        return GO;
    }
    enum step step = tls_step(w, result);
    if (step == ENDED) {
        snprintf(fault, sizeof fault, "closed during the handshake");
        return BROKEN;
    }
    return step;
}

static enum step wire_flush(struct wire *w)
{
    while (w->sent < w->queued) {
        size_t gone;
        enum step step = wire_write(w, w->out + w->sent, w->queued - w->sent, &gone);
        if (step != GO) return step;
        w->sent += gone;
    }
    w->queued = w->sent = 0;
    return GO;
}

static enum step wire_fill(struct wire *w)
{
    size_t got;
    if (w->have == sizeof w->in) {
        snprintf(fault, sizeof fault, "a line of more than %d bytes", LINE_BYTES);
        return BROKEN;
    }
    enum step step = wire_read(w, w->in + w->have, sizeof w->in - w->have, &got);
    if (step == GO) w->have += got;
    return step;
}

static void wire_drop(struct wire *w, size_t size)
{
    w->have -= size;
    memmove(w->in, w->in + size, w->have);
}

/* The next whole line without its CRLF, if there is one. */
static bool wire_line(struct wire *w, char line[LINE_BYTES])
{
    char *end = memchr(w->in, '\n', w->have);
    if (!end) return false;
    size_t size = (size_t)(end - w->in);
    memcpy(line, w->in, size);
    line[size > 0 && line[size - 1] == '\r' ? size - 1 : size] = 0;
    wire_drop(w, size + 1);
    return true;
}

__attribute__((format(printf, 2, 3))) static void wire_say(struct wire *w, const char *form, ...)
{
    va_list values;
    va_start(values, form);
    size_t room = sizeof w->out - w->queued;
    int n = vsnprintf(w->out + w->queued, room, form, values);
    va_end(values);
    if (n < 0 || (size_t)n >= room) die("more to say than fits");
    w->queued += (size_t)n;
}

/* Level-triggered, and only what the last step waits for: the rest would make the loop spin. */
static void wire_watch(struct wire *w, enum step step, void *owner)
{
    uint32_t events = step == AWAIT_ROOM ? EPOLLOUT : EPOLLIN;
    if (w->watched == events) return;
    struct epoll_event event = {.events = events, .data.ptr = owner};
    if (epoll_ctl(poller, w->watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, w->fd, &event)) die("epoll_ctl");
    w->watched = events;
}

static void wire_close(struct wire *w)
{
    SSL_free(w->ssl);
    w->ssl = NULL;
    close(w->fd);
}

static void without_delay(int fd)
{
    int yes = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
}

/* ---------------------------------------------------------------- session: what both ends have in common */

enum state { LOGGING_IN, HELD, TRIPPING, MOVING, LEAVING, ENDING, GONE };

struct session {
    struct wire wire;
    void (*hear)(struct session *, const char *line);
    int64_t to_send, to_swallow;     /* bulk that comes before the next line */
    char reply[LINE_BYTES];          /* server: what is said once the bulk is through */
    int preambles;                   /* server: so many come first, and how long they are has still to be read */
    bool closing;                    /* server: close when everything is said */
    size_t hello_left;               /* client: bytes of the hello that have not gone yet */
    enum state state;                /* client */
    double since;                    /* client: when the session, or this round trip, began */
};

static char bulk[SLICE_BYTES];

static size_t slice(int64_t left)
{
    return left < SLICE_BYTES ? (size_t)left : SLICE_BYTES;
}

static enum step send_bulk(struct session *s)
{
    size_t gone;
    enum step step = wire_write(&s->wire, bulk, slice(s->to_send), &gone);
    if (step == GO) s->to_send -= (int64_t)gone;
    return step;
}

static enum step swallow_bulk(struct session *s)
{
    static char away[SLICE_BYTES];
    size_t got = s->wire.have;
    if (got > 0) {                   /* its beginning came together with the line before it */
        if ((int64_t)got > s->to_swallow) got = (size_t)s->to_swallow;
        wire_drop(&s->wire, got);
    } else {
        enum step step = wire_read(&s->wire, away, slice(s->to_swallow), &got);
        if (step != GO) return step;
    }
    s->to_swallow -= (int64_t)got;
    return GO;
}

static char hello[HELLO_BYTES];
static size_t hello_size;            /* 0: the clients send none */

static enum step send_hello(struct session *s)
{
    size_t gone;
    enum step step = wire_write(&s->wire, hello + hello_size - s->hello_left, s->hello_left, &gone);
    if (step == GO) s->hello_left -= gone;
    return step;
}

/* The size of the preamble that begins so: 0 while that cannot be told, negative if it is none. */
static int64_t preamble_size(const char *in, size_t have)
{
    const unsigned char *bytes = (const unsigned char *)in;
    const char *end;
    if (!have) return 0;
    switch (bytes[0]) {
    case '\r':                       /* PROXY, version 2 */
        return have < 16 ? 0 : 16 + (bytes[14] << 8 | bytes[15]);
    case 'P':                        /* PROXY, version 1 */
        end = memchr(in, '\n', have);
        return end ? end - in + 1 : 0;
    case 0x16:                       /* a TLS record of a handshake */
        return have < 5 ? 0 : 5 + (bytes[3] << 8 | bytes[4]);
    default:
        return -1;
    }
}

static enum step measure_preamble(struct session *s)
{
    int64_t size = preamble_size(s->wire.in, s->wire.have);
    if (!size) return wire_fill(&s->wire);
    if (size < 0) {
        snprintf(fault, sizeof fault, "no preamble");
        return BROKEN;
    }
    s->preambles--;
    s->to_swallow = size;
    return GO;
}

static enum step session_step(struct session *s)
{
    char line[LINE_BYTES];
    if (s->wire.handshaking) return wire_handshake(&s->wire);
    if (s->hello_left) return send_hello(s);
    if (s->preambles && !s->to_swallow) return measure_preamble(s);
    enum step step = wire_flush(&s->wire);
    if (step != GO) return step;
    if (s->to_send) return send_bulk(s);
    if (s->to_swallow) return swallow_bulk(s);
    if (s->reply[0]) {
        wire_say(&s->wire, "%s", s->reply);
        s->reply[0] = 0;
        return GO;
    }
    if (s->closing) return ENDED;
    if (!wire_line(&s->wire, line)) return wire_fill(&s->wire);
    s->hear(s, line);
    return GO;
}

/* Go on as far as the wire lets it; how it stopped. */
static enum step session_drive(struct session *s)
{
    enum step step = GO;
    while (step == GO && s->state != GONE) step = session_step(s);
    if (step == AWAIT_INPUT || step == AWAIT_ROOM) wire_watch(&s->wire, step, s);
    return step;
}

/* ---------------------------------------------------------------- server */

struct port {
    int listener;
    int preambles;
};

static void server_hears(struct session *s, const char *line)
{
    char tag[32], verb[32] = "";
    long long amount = 0;
    if (sscanf(line, "%31s %31s %lld", tag, verb, &amount) < 2 || amount < 0) {
        wire_say(&s->wire, "* BAD\r\n");
    } else if (!strcasecmp(verb, "LOGOUT")) {
        wire_say(&s->wire, "* BYE\r\n%s OK\r\n", tag);
        s->closing = true;
    } else {
        if (!strcasecmp(verb, "BULK")) s->to_send = amount;
        if (!strcasecmp(verb, "SINK")) s->to_swallow = amount;
        snprintf(s->reply, sizeof s->reply, "%s OK\r\n", tag);
    }
}

static void server_drive(struct session *s)
{
    enum step step = session_drive(s);
    if (step != ENDED && step != BROKEN) return;
    wire_close(&s->wire);
    free(s);
}

static void server_accept(const struct port *port)
{
    for (;;) {
        int fd = accept4(port->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && (errno == EAGAIN || errno == ECONNABORTED)) return;
        if (fd < 0) die("accept");
        struct session *s = zeroed(1, sizeof *s);
        s->wire.fd = fd;
        s->hear = server_hears;
        without_delay(fd);
        s->preambles = port->preambles;
        snprintf(s->reply, sizeof s->reply, "* OK [CAPABILITY IMAP4rev1 IDLE] ready\r\n");
        server_drive(s);
    }
}

/* The number of the port that is listened on. */
static int server_listens(struct port *port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = port};
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (void *)&address, size) || listen(listener, 65535)) die("listen");
    getsockname(listener, (void *)&address, &size);
    port->listener = listener;
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    return ntohs(address.sin_port);
}

static int server(void)
{
    struct port ports[] = {{.preambles = 0}, {.preambles = 1}, {.preambles = 2}};
    enum { PORTS = sizeof ports / sizeof *ports };
    char parent;                     /* only its address: stdin, which ends when the scale ends, however it does */
    struct epoll_event events[EVENTS], event = {.events = EPOLLIN, .data.ptr = &parent};
    epoll_ctl(poller, EPOLL_CTL_ADD, STDIN_FILENO, &event);
    for (int i = 0; i < PORTS; i++) printf("%d%c", server_listens(&ports[i]), i + 1 < PORTS ? ' ' : '\n');
    fflush(stdout);
    for (;;) {
        int n = epoll_wait(poller, events, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            void *owner = events[i].data.ptr;
            if (owner == &parent) return 0;
            if (owner >= (void *)ports && owner < (void *)(ports + PORTS)) server_accept(owner);
            else server_drive(owner);
        }
    }
}

/* ---------------------------------------------------------------- clients */

enum mode { SESSIONS, TRIPS, BULK_DOWN, BULK_UP, IDLE, MODES };

static const char *const MODE_NAMES[MODES] = {"sessions", "trips", "bulk-down", "bulk-up", "idle"};

static struct {
    enum mode mode;
    struct sockaddr_in proxy;
    long count, at_once;
    int64_t bytes;
    double seconds;
} job = {.at_once = OPENING_AT_ONCE};

static struct session *sessions;
static long opened, held, ended, failed;
static double deadline;              /* of the round trips */
static char negotiated[128] = "clear";

static double *samples;              /* seconds of each round trip, or of each session */
static size_t sampled, sample_room;

static void sample(double seconds)
{
    if (sampled == sample_room) {
        sample_room = sample_room ? sample_room * 2 : 65536;
        samples = realloc(samples, sample_room * sizeof *samples);
        if (!samples) die("memory");
    }
    samples[sampled++] = seconds;
}

static void client_fails(struct session *s, const char *why)
{
    static const char *const DURING[] = {"logging in", "waiting", "round trips", "bulk", "logout", "after logout"};
    if (!failed) fprintf(stderr, "session %ld, %s: %s\n", (long)(s - sessions) + 1, DURING[s->state], why);
    if (s->state == HELD) held--;
    s->state = GONE;
    failed++;
    wire_close(&s->wire);
}

static void client_ends(struct session *s)
{
    if (s->wire.ssl) SSL_shutdown(s->wire.ssl);
    if (job.mode == SESSIONS) sample(now() - s->since);
    s->state = GONE;
    ended++;
    wire_close(&s->wire);
}

static void client_holds(struct session *s)
{
    s->state = HELD;
    held++;
}

static void client_trips(struct session *s)
{
    s->state = TRIPPING;
    s->since = now();
    wire_say(&s->wire, "n NOOP\r\n");
}

/* Then the server's end of file is waited for: it closes first, as mail servers do, and no port stays in TIME_WAIT here. */
static void client_leaves(struct session *s)
{
    s->state = LEAVING;
    wire_say(&s->wire, "z LOGOUT\r\n");
}

static void client_hears(struct session *s, const char *line)
{
    double heard;
    switch (s->state) {
    case LOGGING_IN:
        if (!strncmp(line, "* OK", 4)) wire_say(&s->wire, "a LOGIN user password\r\n");
        else if (strcmp(line, "a OK") != 0) break;
        else if (job.mode == SESSIONS) client_leaves(s);
        else client_holds(s);
        return;
    case TRIPPING:
        if (strcmp(line, "n OK") != 0) break;
        heard = now();
        sample(heard - s->since);
        if (heard < deadline) client_trips(s);
        else client_holds(s);
        return;
    case MOVING:
        if (strcmp(line, "b OK") != 0) break;
        client_holds(s);
        return;
    case LEAVING:
        if (!strcmp(line, "z OK")) s->state = ENDING;
        else if (strcmp(line, "* BYE") != 0) break;
        return;
    case HELD: case ENDING: case GONE:
        break;
    }
    client_fails(s, "an answer that does not belong here");
}

static void note_tls(SSL *ssl)
{
    const char *group = SSL_group_to_name(ssl, (int)SSL_get_negotiated_group(ssl));
    snprintf(negotiated, sizeof negotiated, "%s %s %s", SSL_get_version(ssl), SSL_get_cipher_name(ssl),
             group ? group : "unnamed group");
}

static void client_drive(struct session *s)
{
    bool was_handshaking = s->wire.handshaking;
    enum step step = session_drive(s);
    if (was_handshaking && !s->wire.handshaking && s->wire.ssl) note_tls(s->wire.ssl);
    if (step == BROKEN) client_fails(s, fault);
    else if (step == ENDED && s->state == ENDING) client_ends(s);
    else if (step == ENDED) client_fails(s, "closed by the proxy");
}

static void client_opens(void)
{
    struct session *s = &sessions[opened++];
    s->hear = client_hears;
    s->since = now();
    s->hello_left = hello_size;
    s->wire.fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (s->wire.fd < 0) die("socket");
    without_delay(s->wire.fd);
    if (connect(s->wire.fd, (void *)&job.proxy, sizeof job.proxy) && errno != EINPROGRESS) {
        client_fails(s, strerror(errno));
        return;
    }
    if (tls) {
        s->wire.ssl = SSL_new(tls);
        if (!s->wire.ssl) die("SSL_new");
        SSL_set_tlsext_host_name(s->wire.ssl, SERVER_NAME);
        SSL_set_fd(s->wire.ssl, s->wire.fd);
        SSL_set_connect_state(s->wire.ssl);
        s->wire.handshaking = true;
    }
    wire_watch(&s->wire, AWAIT_ROOM, s);     /* connected: then the first step is tried */
}

/* ---------------------------------------------------------------- stages */

static long under_way(void)
{
    return opened - held - ended - failed;
}

static void time_is_up(void)
{
    for (long i = 0; i < opened; i++)
        if (sessions[i].state != HELD && sessions[i].state != GONE) client_fails(&sessions[i], "the time is up");
    failed += job.count - opened;            /* never begun */
    opened = job.count;
}

/* Open what is not open yet, and drive every session until it is held again, has ended, or failed. */
static void stage_drive(void)
{
    struct epoll_event events[EVENTS];
    double limit = now() + STAGE_SECONDS;
    for (;;) {
        while (opened < job.count && under_way() < job.at_once) client_opens();
        if (!under_way() && opened == job.count) return;
        int n = epoll_wait(poller, events, EVENTS, 1000);
        for (int i = 0; i < n; i++) {
            struct session *s = events[i].data.ptr;
            if (s->state != GONE) client_drive(s);
        }
        if (now() > limit) time_is_up();
    }
}

static void begin_work(struct session *s)
{
    held--;
    if (job.mode == TRIPS) {
        client_trips(s);
        return;
    }
    s->state = MOVING;
    if (job.mode == BULK_UP) s->to_send = job.bytes;
    else s->to_swallow = job.bytes;
    wire_say(&s->wire, "b %s %lld\r\n", job.mode == BULK_UP ? "SINK" : "BULK", (long long)job.bytes);
}

/* Nothing may have come for a silent session: neither its end, nor a reset. */
static void check_idle(struct session *s)
{
    char byte;
    ssize_t n = recv(s->wire.fd, &byte, 1, MSG_PEEK);
    if (n == 0) client_fails(s, "closed by the proxy");
    if (n < 0 && errno != EAGAIN) client_fails(s, strerror(errno));
}

static void with_each_held(void (*what)(struct session *), bool drive)
{
    for (long i = 0; i < opened; i++) {
        if (sessions[i].state != HELD) continue;
        what(&sessions[i]);
        if (drive && sessions[i].state != GONE) client_drive(&sessions[i]);
    }
}

static void say_goodbye(struct session *s)
{
    held--;
    client_leaves(s);
}

static void stage_work(void)
{
    deadline = now() + job.seconds;
    if (job.mode == IDLE) with_each_held(check_idle, false);
    else if (job.mode != SESSIONS) with_each_held(begin_work, true);
    stage_drive();
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double percentile(double part)
{
    return sampled ? samples[(size_t)((double)(sampled - 1) * part)] : 0;
}

static void report(const char *stage, double seconds)
{
    if (sampled) qsort(samples, sampled, sizeof *samples, by_size);
    printf("{\"stage\": \"%s\", \"seconds\": %.6f, \"held\": %ld, \"ended\": %ld, \"failed\": %ld, \"negotiated\": \"%s\", "
           "\"samples\": %zu, \"p50\": %.9f, \"p99\": %.9f}\n",
           stage, seconds, held, ended, failed, negotiated, sampled, percentile(.50), percentile(.99));
    fflush(stdout);
}

static void await_line(void)
{
    char line[LINE_BYTES];
    if (!fgets(line, sizeof line, stdin)) exit(1);
}

static int clients(void)
{
    double since = now();
    sessions = zeroed((size_t)job.count, sizeof *sessions);
    if (job.mode != SESSIONS) stage_drive();
    report("ready", now() - since);
    await_line();

    since = now();
    stage_work();
    report("worked", now() - since);
    await_line();

    since = now();
    with_each_held(say_goodbye, true);
    stage_drive();
    report("closed", now() - since);
    return failed > 0;
}

/* ---------------------------------------------------------------- command line */

static int wrong_use(void)
{
    fprintf(stderr, "usage: load server | load MODE PORT --count N [--at-once N] [--seconds S] [--bytes B] [--tls | --hello]\n");
    return 2;
}

static void prepare_tls(void)
{
    tls = SSL_CTX_new(TLS_client_method());
    if (!tls) die("SSL_CTX_new");
    SSL_CTX_set_verify(tls, SSL_VERIFY_NONE, NULL);
    SSL_CTX_set_session_cache_mode(tls, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_mode(tls, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_options(tls, SSL_OP_IGNORE_UNEXPECTED_EOF);  /* an end without close_notify is an orderly one as well */
}

/* One for all sessions: OpenSSL begins a handshake into the void. */
static void prepare_hello(void)
{
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    SSL *ssl = context ? SSL_new(context) : NULL;
    BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());
    if (!ssl || !in || !out) die("the hello");
    SSL_set_bio(ssl, in, out);
    SSL_set_tlsext_host_name(ssl, SERVER_NAME);
    SSL_set_connect_state(ssl);
    SSL_do_handshake(ssl);                   /* stops where it wants an answer */
    if (!BIO_read_ex(out, hello, sizeof hello, &hello_size)) die("the hello");
    SSL_free(ssl);
    SSL_CTX_free(context);
}

static bool read_options(int argc, char **argv)
{
    static const struct option OPTIONS[] = {
        {"count", required_argument, NULL, 'c'},   {"at-once", required_argument, NULL, 'a'},
        {"seconds", required_argument, NULL, 's'}, {"bytes", required_argument, NULL, 'b'},
        {"tls", no_argument, NULL, 't'},           {"hello", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    int letter;
    while ((letter = getopt_long(argc, argv, "", OPTIONS, NULL)) != -1) {
        switch (letter) {
        case 'c': job.count = atol(optarg); break;
        case 'a': job.at_once = atol(optarg); break;
        case 's': job.seconds = atof(optarg); break;
        case 'b': job.bytes = atoll(optarg); break;
        case 't': prepare_tls(); break;
        case 'h': prepare_hello(); break;
        default: return false;
        }
    }
    return argc == optind + 2 && job.count > 0 && job.at_once > 0 && !(tls && hello_size);
}

static bool read_job(const char *mode, const char *port)
{
    while (job.mode < MODES && strcmp(mode, MODE_NAMES[job.mode]) != 0) job.mode++;
    job.proxy.sin_family = AF_INET;
    job.proxy.sin_port = htons((uint16_t)atoi(port));
    job.proxy.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return job.mode < MODES && atoi(port) > 0;
}

static void prepare_bulk(void)
{
    memset(bulk, 'x', sizeof bulk);
    for (size_t i = 79; i < sizeof bulk; i += 80) bulk[i] = '\n';
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);                /* SSL_write has no MSG_NOSIGNAL */
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (poller < 0) die("epoll_create");
    prepare_bulk();
    if (argc == 2 && !strcmp(argv[1], "server")) return server();
    if (!read_options(argc, argv) || !read_job(argv[optind], argv[optind + 1])) return wrong_use();
    return clients();
}
