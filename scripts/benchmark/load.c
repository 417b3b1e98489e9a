/* The load: both ends of the mail sessions with which proxies are weighed, the clients and a stub of an IMAP server.
 *
 *   load server                                   listens on three free ports of 127.0.0.1, prints them, ends with its stdin
 *   load sessions  PORT --count N --at-once N     whole sessions: greeting, LOGIN, LOGOUT, end of file
 *   load trips     PORT --count N --seconds S     N sessions send NOOP, each as soon as the last one is answered
 *   load bulk-down PORT --count N --bytes B       N sessions receive B bytes each
 *   load bulk-up   PORT --count N --bytes B       N sessions send B bytes each
 *   load streams   PORT --count N --seconds S     N sessions receive or send all the time, every other one
 *   load idle      PORT --count N                 N sessions log in and fall silent
 *
 * --tls: the clients speak TLS, each with a full handshake, to whatever certificate.
 * --resume: they speak TLS, and each resumes the session of one before it; the first gets its ticket before "ready".
 * --tls-1.2: they offer nothing newer.
 * --hello: the first that a client sends is a ClientHello for imap.example.com, as data: it is there to be looked at, and
 * the session goes on in clear.
 *
 * The server's second port is for sessions that begin with a preamble: a PROXY header of either version, or one TLS record
 * with the clients' hello. The server swallows it, whole, and only then greets. At its third port it takes two of them.
 *
 * The clients go through three stages, so that the proxy can be weighed between any two of them. Each ends with one
 * line of JSON on stdout and goes on when a line comes on stdin:
 *
 *   ready    every session is logged in ("sessions" has nothing to do here but to get a first ticket)
 *   worked   the work is done, every session is still there
 *   closed   every session has ended
 *
 * A session that ends otherwise than its mode says has failed. The first reason goes to stderr, the number into the
 * JSON, and the exit code is 1. Wrong use is 2.
 *
 *   cc -O2 -Wall -Wextra -o load load.c wire.c -lssl -lcrypto     (OpenSSL 3.0 or later)
 */
#define _GNU_SOURCE
#include "wire.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    SLICE_BYTES = 256 * 1024,
    TURN_BYTES = 1024 * 1024,    /* of bulk, then the others have theirs */
    STREAM_BYTES = 4 * 1024 * 1024, /* that a stream asks for at a time */
    EVENTS = 256,
    HELLO_BYTES = 16 * 1024, /* room for our one ClientHello; OpenSSL's have some hundred bytes, post-quantum ones 1600 */
    OPENING_AT_ONCE = 64,    /* sessions on their way to "ready": more would measure the listen queue */
    STAGE_SECONDS = 120,     /* a stage that takes longer has sessions that hang */
};

/* ---------------------------------------------------------------- session: what both ends have in common */

enum state { LOGGING_IN, HELD, TRIPPING, MOVING, LEAVING, ENDING, GONE };

struct session {
    struct wire wire;
    void (*hear)(struct session *, const char *line);
    int64_t to_send, to_swallow;     /* bulk that comes before the next line */
    int64_t turn;                    /* bytes of bulk that may still be moved before others have their turn */
    char reply[LINE_BYTES];          /* server: what is said once the bulk is through */
    int preambles;                   /* server: so many come first, and how long they are has still to be read */
    bool closing;                    /* server: close when everything is said */
    size_t hello_left;               /* client: bytes of the hello that have not gone yet */
    enum state state;                /* client */
    double since;                    /* client: when the session, or this round trip, began */
};

static char bulk[SLICE_BYTES];

static void bulk_moves(struct session *s, int64_t *left, size_t size)
{
    *left -= (int64_t)size;
    s->turn -= (int64_t)size;
}

static size_t slice(int64_t left)
{
    return left < SLICE_BYTES ? (size_t)left : SLICE_BYTES;
}

static enum step send_bulk(struct session *s)
{
    size_t gone;
    enum step step = wire_write(&s->wire, bulk, slice(s->to_send), &gone);
    if (step == GO) bulk_moves(s, &s->to_send, gone);
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
    bulk_moves(s, &s->to_swallow, got);
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

static bool turn_is_over(const struct session *s)
{
    return s->turn <= 0 && (s->to_send || s->to_swallow) && !s->wire.queued;
}

/* Go on as far as the wire and the turn let it; how it stopped. */
static enum step session_drive(struct session *s)
{
    enum step step = GO;
    s->turn = TURN_BYTES;
    while (step == GO && s->state != GONE && !turn_is_over(s)) step = session_step(s);
    if (step == GO && s->state != GONE) step = s->to_send ? AWAIT_ROOM : AWAIT_INPUT;
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
    struct wire wire = {0};
    while (wire_accept(&wire, port->listener)) {
        struct session *s = zeroed(1, sizeof *s);
        s->wire = wire;
        s->hear = server_hears;
        s->preambles = port->preambles;
        snprintf(s->reply, sizeof s->reply, "* OK [CAPABILITY IMAP4rev1 IDLE] ready\r\n");
        server_drive(s);
    }
}

static int server(void)
{
    struct port ports[] = {{.preambles = 0}, {.preambles = 1}, {.preambles = 2}};
    enum { PORTS = sizeof ports / sizeof *ports };
    char parent;                     /* only its address: stdin, which ends when the scale ends, however it does */
    struct epoll_event events[EVENTS], event = {.events = EPOLLIN, .data.ptr = &parent};
    epoll_ctl(poller, EPOLL_CTL_ADD, STDIN_FILENO, &event);
    for (int i = 0; i < PORTS; i++) printf("%d%c", wire_listen(&ports[i].listener, &ports[i]), i + 1 < PORTS ? ' ' : '\n');
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

enum mode { SESSIONS, TRIPS, BULK_DOWN, BULK_UP, STREAMS, IDLE, MODES };

static const char *const MODE_NAMES[MODES] = {"sessions", "trips", "bulk-down", "bulk-up", "streams", "idle"};

static struct {
    enum mode mode;
    int port;
    bool resume;
    long count, at_once;
    int64_t bytes;
    double seconds;
} job = {.at_once = OPENING_AT_ONCE};

static struct session *sessions;
static long opened, held, ended, failed;
static double deadline;              /* of round trips and streams */
static int64_t moved;                /* bytes of bulk that have arrived */
static char negotiated[128] = "clear";
static SSL_SESSION *ticket;          /* the newest one, to resume with */
static long handshakes, resumed, tickets;

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

static bool sends(const struct session *s)
{
    return job.mode == BULK_UP || (job.mode == STREAMS && (s - sessions) % 2);
}

static void client_moves(struct session *s)
{
    s->state = MOVING;
    if (sends(s)) s->to_send = job.bytes;
    else s->to_swallow = job.bytes;
    wire_say(&s->wire, "b %s %lld\r\n", sends(s) ? "SINK" : "BULK", (long long)job.bytes);
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
        moved += job.bytes;
        if (job.mode == STREAMS && now() < deadline) client_moves(s);
        else client_holds(s);
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
    handshakes++;
    resumed += SSL_session_reused(ssl);
}

/* A copy is kept: OpenSSL goes on writing to its own. It keeps that, says the 0. */
static int client_gets_ticket(SSL *ssl, SSL_SESSION *session)
{
    (void)ssl;
    tickets++;
    if (!job.resume) return 0;
    SSL_SESSION_free(ticket);
    ticket = SSL_SESSION_dup(session);
    return 0;
}

static void client_resumes(struct session *s)
{
    SSL_SESSION *copy = SSL_SESSION_dup(ticket);
    SSL_set_session(s->wire.ssl, copy);
    SSL_SESSION_free(copy);
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
    if (!wire_connect(&s->wire, job.port, tls)) {
        client_fails(s, strerror(errno));
        return;
    }
    if (ticket) client_resumes(s);
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
    client_moves(s);
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

struct beginning { double wall, processor; };

static double processor_time(void)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) + (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static struct beginning begin_stage(void)
{
    return (struct beginning){now(), processor_time()};
}

static void report(const char *stage, struct beginning since)
{
    double seconds = now() - since.wall;
    if (sampled) qsort(samples, sampled, sizeof *samples, by_size);
    printf("{\"stage\": \"%s\", \"seconds\": %.6f, \"processor_seconds\": %.6f, ", stage, seconds,
           processor_time() - since.processor);
    printf("\"held\": %ld, \"ended\": %ld, \"failed\": %ld, \"bytes\": %lld, ", held, ended, failed, (long long)moved);
    printf("\"negotiated\": \"%s\", \"handshakes\": %ld, \"resumed\": %ld, \"tickets\": %ld, ", negotiated, handshakes,
           resumed, tickets);
    printf("\"samples\": %zu, \"p50\": %.9f, \"p99\": %.9f}\n", sampled, percentile(.50), percentile(.99));
    fflush(stdout);
}

static void await_line(void)
{
    char line[LINE_BYTES];
    if (!fgets(line, sizeof line, stdin)) exit(1);
}

/* One session by itself, with a full handshake; nothing else is counted. */
static void get_first_ticket(void)
{
    long count = job.count;
    job.count = 1;
    stage_drive();
    if (!ticket && !failed) {
        fprintf(stderr, "the first session got no ticket\n");
        failed++;
    }
    job.count = count;
    memset(sessions, 0, sizeof *sessions);
    opened = ended = handshakes = resumed = tickets = 0;
    sampled = 0;
}

static int clients(void)
{
    struct beginning since = begin_stage();
    sessions = zeroed((size_t)job.count, sizeof *sessions);
    if (job.mode != SESSIONS) stage_drive();
    else if (job.resume) get_first_ticket();
    report("ready", since);
    await_line();

    since = begin_stage();
    stage_work();
    report("worked", since);
    await_line();

    since = begin_stage();
    with_each_held(say_goodbye, true);
    stage_drive();
    report("closed", since);
    return failed > 0;
}

/* ---------------------------------------------------------------- command line */

static int wrong_use(void)
{
    fprintf(stderr, "usage: load server | load MODE PORT --count N [--at-once N] [--seconds S] [--bytes B] "
                    "[--tls | --resume | --hello] [--tls-1.2]\n");
    return 2;
}

static void count_tickets(void)
{
    SSL_CTX_set_session_cache_mode(tls, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(tls, client_gets_ticket);
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
        {"tls", no_argument, NULL, 't'},           {"resume", no_argument, NULL, 'r'},
        {"tls-1.2", no_argument, NULL, '2'},       {"hello", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    int letter, newest = 0;
    job.bytes = STREAM_BYTES;
    while ((letter = getopt_long(argc, argv, "", OPTIONS, NULL)) != -1) {
        switch (letter) {
        case 'c': job.count = atol(optarg); break;
        case 'a': job.at_once = atol(optarg); break;
        case 's': job.seconds = atof(optarg); break;
        case 'b': job.bytes = atoll(optarg); break;
        case 'r': job.resume = true; /* fall through */
        case 't': prepare_tls(); break;
        case '2': newest = TLS1_2_VERSION; break;
        case 'h': prepare_hello(); break;
        default: return false;
        }
    }
    if (tls) {
        SSL_CTX_set_max_proto_version(tls, newest);
        count_tickets();
    }
    return argc == optind + 2 && job.count > 0 && job.at_once > 0 && job.bytes > 0 && !(tls && hello_size);
}

static bool read_job(const char *mode, const char *port)
{
    while (job.mode < MODES && strcmp(mode, MODE_NAMES[job.mode]) != 0) job.mode++;
    job.port = atoi(port);
    return job.mode < MODES && job.port > 0;
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
