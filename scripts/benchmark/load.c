/* The load of the benchmark: both ends of the mail sessions, the clients and a stub of an IMAP server.
 *
 *   load server                                   listens on three free ports of 127.0.0.1, prints them, ends when its stdin closes
 *   load sessions  PORT --count N --at-once N     whole sessions: greeting, LOGIN, LOGOUT, end of file
 *   load trips     PORT --count N --seconds S     N sessions send NOOP, each as soon as the last one is answered
 *   load trips     PORT --count N --trips T       the same, T times each
 *   load bulk-down PORT --count N --bytes B       N sessions receive B bytes each
 *   load bulk-up   PORT --count N --bytes B       N sessions send B bytes each
 *   load streams   PORT --count N --seconds S     N sessions transfer bytes all the time, every other one upwards
 *   load idle      PORT --count N                 N sessions log in and stay idle
 *
 * --tls: the clients use TLS, each with a full handshake. They accept every certificate.
 * --resume: they use TLS, and each resumes an earlier TLS session. The first ticket is fetched before "ready".
 * --tls-1.2: they offer TLS 1.2 at most.
 * --starttls: the clients begin in clear, send STARTTLS after the greeting, and log in over TLS. No greeting follows.
 * --hello: a client first sends a ClientHello for imap.example.com as plain data, for proxies that peek at it. The session
 * goes on in clear.
 *
 * The server's second port is for sessions that begin with a preamble: a PROXY header of either version, or one TLS record
 * with the client's ClientHello. The server reads and discards it, and then greets. The third port expects two preambles.
 *
 * The clients go through three stages, so that the proxy can be measured between any two of them. Each stage ends with one
 * line of JSON on stdout, and the next one starts when a line arrives on stdin:
 *
 *   ready    every session is logged in ("sessions" only fetches a first ticket here)
 *   worked   the work is done, and every session is still open
 *   closed   every session has ended
 *
 * A session that does not end as its mode demands has failed. The first reason goes to stderr, the number of failures into
 * the JSON, and the exit code is 1. Wrong arguments give 2.
 *
 *   cc -O2 -Wall -Wextra -o load load.c wire.c -lssl -lcrypto     (OpenSSL 3.0 or later)
 */
#define _GNU_SOURCE
#include "wire.h"

#include <errno.h>
#include <getopt.h>
#include <sched.h>
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
    TURN_BYTES = 1024 * 1024,    /* of bulk, then the other sessions get their turn */
    STREAM_BYTES = 4 * 1024 * 1024, /* of one transfer of a stream */
    EVENTS = 256,
    HELLO_BYTES = 16 * 1024, /* room for the ClientHello; OpenSSL's have some hundred bytes, post-quantum ones 1600 */
    OPENING_AT_ONCE = 64,    /* sessions that open at the same time: more would measure the listen queue */
    STAGE_SECONDS = 120,     /* sessions hang if a stage takes longer */
};

/* ---------------------------------------------------------------- session: what both ends share */

enum state { LOGGING_IN, UPGRADING, HELD, TRIPPING, MOVING, LEAVING, ENDING, GONE };

struct session {
    struct wire wire;
    void (*on_line)(struct session *, const char *line);
    int64_t to_send, to_discard;     /* bytes of bulk before the next line */
    int64_t turn;                    /* bytes of bulk left in this turn */
    char reply[LINE_BYTES];          /* server: the line to send after the bulk */
    int preambles;                   /* server: preambles of which the size is still to be read */
    bool closing;                    /* server: close when everything is sent */
    size_t hello_left;               /* client: unsent bytes of the ClientHello */
    enum state state;                /* client */
    double started_at;                    /* client: when the session, or this round trip, started */
    long trips;                      /* client: answered round trips */
};

static char bulk[SLICE_BYTES];

static void count_bulk(struct session *s, int64_t *left, size_t size)
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
    size_t written;
    enum step step = wire_write(&s->wire, bulk, slice(s->to_send), &written);
    if (step == GO) count_bulk(s, &s->to_send, written);
    return step;
}

static enum step discard_bulk(struct session *s)
{
    static char discarded[SLICE_BYTES];
    size_t got = s->wire.have;
    if (got > 0) {                   /* its first bytes arrived with the line before it */
        if ((int64_t)got > s->to_discard) got = (size_t)s->to_discard;
        wire_drop(&s->wire, got);
    } else {
        enum step step = wire_read(&s->wire, discarded, slice(s->to_discard), &got);
        if (step != GO) return step;
    }
    count_bulk(s, &s->to_discard, got);
    return GO;
}

static char hello[HELLO_BYTES];
static size_t hello_size;            /* 0: the clients send no ClientHello */

static enum step send_hello(struct session *s)
{
    size_t written;
    enum step step = wire_write(&s->wire, hello + hello_size - s->hello_left, s->hello_left, &written);
    if (step == GO) s->hello_left -= written;
    return step;
}

/* Return the size of a preamble by its first bytes: 0 if more are needed, negative if it is not a preamble. */
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

static enum step read_preamble_size(struct session *s)
{
    int64_t size = preamble_size(s->wire.in, s->wire.have);
    if (!size) return wire_fill(&s->wire);
    if (size < 0) {
        snprintf(fault, sizeof fault, "not a preamble");
        return BROKEN;
    }
    s->preambles--;
    s->to_discard = size;
    return GO;
}

static enum step session_step(struct session *s)
{
    char line[LINE_BYTES];
    if (s->wire.handshaking) return wire_handshake(&s->wire);
    if (s->hello_left) return send_hello(s);
    if (s->preambles && !s->to_discard) return read_preamble_size(s);
    enum step step = wire_flush(&s->wire);
    if (step != GO) return step;
    if (s->to_send) return send_bulk(s);
    if (s->to_discard) return discard_bulk(s);
    if (s->reply[0]) {
        wire_printf(&s->wire, "%s", s->reply);
        s->reply[0] = 0;
        return GO;
    }
    if (s->closing) return ENDED;
    if (!wire_line(&s->wire, line)) return wire_fill(&s->wire);
    s->on_line(s, line);
    return GO;
}

static bool is_turn_over(const struct session *s)
{
    return s->turn <= 0 && (s->to_send || s->to_discard) && !s->wire.queued;
}

/* Go on until the wire blocks or the turn is used up, and return why it stopped. */
static enum step session_drive(struct session *s)
{
    enum step step = GO;
    s->turn = TURN_BYTES;
    while (step == GO && s->state != GONE && !is_turn_over(s)) step = session_step(s);
    if (step == GO && s->state != GONE) step = s->to_send ? AWAIT_ROOM : AWAIT_INPUT;
    if (step == AWAIT_INPUT || step == AWAIT_ROOM) wire_watch(&s->wire, step, s);
    return step;
}

/* ---------------------------------------------------------------- server */

struct port {
    int listener;
    int preambles;
};

static void server_on_line(struct session *s, const char *line)
{
    char tag[32], verb[32] = "";
    long long amount = 0;
    if (sscanf(line, "%31s %31s %lld", tag, verb, &amount) < 2 || amount < 0) {
        wire_printf(&s->wire, "* BAD\r\n");
    } else if (!strcasecmp(verb, "LOGOUT")) {
        wire_printf(&s->wire, "* BYE\r\n%s OK\r\n", tag);
        s->closing = true;
    } else {
        if (!strcasecmp(verb, "BULK")) s->to_send = amount;
        if (!strcasecmp(verb, "SINK")) s->to_discard = amount;
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
        s->on_line = server_on_line;
        s->preambles = port->preambles;
        snprintf(s->reply, sizeof s->reply, "* OK [CAPABILITY IMAP4rev1 IDLE] ready\r\n");
        server_drive(s);
    }
}

static int server(void)
{
    struct port ports[] = {{.preambles = 0}, {.preambles = 1}, {.preambles = 2}};
    enum { PORTS = sizeof ports / sizeof *ports };
    char parent;                     /* only its address counts: stdin closes when the benchmark ends, even if it is killed */
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
    bool resume, starttls;
    long count, at_once, trips;
    int64_t bytes;
    double seconds;
} job = {.at_once = OPENING_AT_ONCE};

static struct session *sessions;
static long opened, held, ended, failed;
static double deadline;              /* of round trips and streams */
static int64_t moved;                /* bytes of bulk that have arrived */
static char negotiated[128] = "clear";
static SSL_SESSION *ticket;          /* the newest one, for the next session */
static long handshakes, resumed, tickets;

static double *samples;              /* seconds of each round trip, or of each session */
static size_t sample_count, sample_capacity;

static void sample(double seconds)
{
    if (sample_count == sample_capacity) {
        sample_capacity = sample_capacity ? sample_capacity * 2 : 65536;
        samples = realloc(samples, sample_capacity * sizeof *samples);
        if (!samples) die("memory");
    }
    samples[sample_count++] = seconds;
}

static void client_fail(struct session *s, const char *why)
{
    static const char *const DURING[] = {"logging in", "waiting", "round trips", "bulk", "logout", "after logout"};
    if (!failed) fprintf(stderr, "session %ld, %s: %s\n", (long)(s - sessions) + 1, DURING[s->state], why);
    if (s->state == HELD) held--;
    s->state = GONE;
    failed++;
    wire_close(&s->wire);
}

static void client_finish(struct session *s)
{
    if (s->wire.ssl) SSL_shutdown(s->wire.ssl);
    if (job.mode == SESSIONS) sample(now() - s->started_at);
    s->state = GONE;
    ended++;
    wire_close(&s->wire);
}

static void client_hold(struct session *s)
{
    s->state = HELD;
    held++;
}

static bool is_sender(const struct session *s)
{
    return job.mode == BULK_UP || (job.mode == STREAMS && (s - sessions) % 2);
}

static void start_bulk(struct session *s)
{
    s->state = MOVING;
    if (is_sender(s)) s->to_send = job.bytes;
    else s->to_discard = job.bytes;
    wire_printf(&s->wire, "b %s %lld\r\n", is_sender(s) ? "SINK" : "BULK", (long long)job.bytes);
}

static void start_round_trip(struct session *s)
{
    s->state = TRIPPING;
    s->started_at = now();
    wire_printf(&s->wire, "n NOOP\r\n");
}

/* The server closes first, as mail servers do, so that no port of the client stays in TIME_WAIT. */
static void start_logout(struct session *s)
{
    s->state = LEAVING;
    wire_printf(&s->wire, "z LOGOUT\r\n");
}

static void client_on_line(struct session *s, const char *line)
{
    double answered_at;
    switch (s->state) {
    case UPGRADING:
        if (!strncmp(line, "* OK", 4)) {
            wire_printf(&s->wire, "s STARTTLS\r\n");
        } else if (!strncmp(line, "s OK", 4)) {
            wire_start_tls(&s->wire);
            wire_printf(&s->wire, "a LOGIN user password\r\n");
            s->state = LOGGING_IN;
        } else break;
        return;
    case LOGGING_IN:
        if (!strncmp(line, "* OK", 4)) wire_printf(&s->wire, "a LOGIN user password\r\n");
        else if (strcmp(line, "a OK") != 0) break;
        else if (job.mode == SESSIONS) start_logout(s);
        else client_hold(s);
        return;
    case TRIPPING:
        if (strcmp(line, "n OK") != 0) break;
        answered_at = now();
        sample(answered_at - s->started_at);
        s->trips++;
        if (job.trips ? s->trips < job.trips : answered_at < deadline) start_round_trip(s);
        else client_hold(s);
        return;
    case MOVING:
        if (strcmp(line, "b OK") != 0) break;
        moved += job.bytes;
        if (job.mode == STREAMS && now() < deadline) start_bulk(s);
        else client_hold(s);
        return;
    case LEAVING:
        if (!strcmp(line, "z OK")) s->state = ENDING;
        else if (strcmp(line, "* BYE") != 0) break;
        return;
    case HELD: case ENDING: case GONE:
        break;
    }
    client_fail(s, "unexpected answer");
}

static void note_tls(SSL *ssl)
{
    const char *group = SSL_group_to_name(ssl, (int)SSL_get_negotiated_group(ssl));
    snprintf(negotiated, sizeof negotiated, "%s %s %s", SSL_get_version(ssl), SSL_get_cipher_name(ssl),
             group ? group : "unnamed group");
    handshakes++;
    resumed += SSL_session_reused(ssl);
}

/* Keep a copy, because OpenSSL goes on writing to the original. Returning 0 leaves that to OpenSSL. */
static int on_new_ticket(SSL *ssl, SSL_SESSION *session)
{
    (void)ssl;
    tickets++;
    if (!job.resume) return 0;
    SSL_SESSION_free(ticket);
    ticket = SSL_SESSION_dup(session);
    return 0;
}

static void resume_session(struct session *s)
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
    if (step == BROKEN) client_fail(s, fault);
    else if (step == ENDED && s->state == ENDING) client_finish(s);
    else if (step == ENDED) client_fail(s, "closed by the proxy");
}

static void open_client(void)
{
    struct session *s = &sessions[opened++];
    s->on_line = client_on_line;
    s->started_at = now();
    s->hello_left = hello_size;
    s->state = job.starttls ? UPGRADING : LOGGING_IN;
    if (!wire_connect(&s->wire, job.port, tls && !job.starttls)) {
        client_fail(s, strerror(errno));
        return;
    }
    if (ticket) resume_session(s);
    wire_watch(&s->wire, AWAIT_ROOM, s);     /* connected when writable */
}

/* ---------------------------------------------------------------- stages */

static long in_progress(void)
{
    return opened - held - ended - failed;
}

static void fail_unfinished(void)
{
    for (long i = 0; i < opened; i++)
        if (sessions[i].state != HELD && sessions[i].state != GONE) client_fail(&sessions[i], "timed out");
    failed += job.count - opened;            /* never started */
    opened = job.count;
}

/* Open the missing sessions, and drive every session until it is held again, has ended, or has failed. */
static void stage_drive(void)
{
    struct epoll_event events[EVENTS];
    double stage_deadline = now() + STAGE_SECONDS;
    for (;;) {
        while (opened < job.count && in_progress() < job.at_once) open_client();
        if (!in_progress() && opened == job.count) return;
        int n = epoll_wait(poller, events, EVENTS, 1000);
        for (int i = 0; i < n; i++) {
            struct session *s = events[i].data.ptr;
            if (s->state != GONE) client_drive(s);
        }
        if (now() > stage_deadline) fail_unfinished();
    }
}

static void begin_work(struct session *s)
{
    held--;
    if (job.mode == TRIPS) {
        start_round_trip(s);
        return;
    }
    start_bulk(s);
}

/* An idle session must not have been closed or reset. */
static void check_idle(struct session *s)
{
    char byte;
    ssize_t n = recv(s->wire.fd, &byte, 1, MSG_PEEK);
    if (n == 0) client_fail(s, "closed by the proxy");
    if (n < 0 && errno != EAGAIN) client_fail(s, strerror(errno));
}

static void for_each_held(void (*what)(struct session *), bool drive)
{
    for (long i = 0; i < opened; i++) {
        if (sessions[i].state != HELD) continue;
        what(&sessions[i]);
        if (drive && sessions[i].state != GONE) client_drive(&sessions[i]);
    }
}

static void log_out(struct session *s)
{
    held--;
    start_logout(s);
}

static void stage_work(void)
{
    deadline = now() + job.seconds;
    if (job.mode == IDLE) for_each_held(check_idle, false);
    else if (job.mode != SESSIONS) for_each_held(begin_work, true);
    stage_drive();
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double percentile(double part)
{
    return sample_count ? samples[(size_t)((double)(sample_count - 1) * part)] : 0;
}

struct stage_start { double wall, processor; };

static double processor_time(void)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) + (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static struct stage_start begin_stage(void)
{
    return (struct stage_start){now(), processor_time()};
}

static void report(const char *stage, struct stage_start started_at)
{
    double seconds = now() - started_at.wall;
    if (sample_count) qsort(samples, sample_count, sizeof *samples, compare_doubles);
    printf("{\"stage\": \"%s\", \"seconds\": %.6f, \"processor_seconds\": %.6f, ", stage, seconds,
           processor_time() - started_at.processor);
    printf("\"held\": %ld, \"ended\": %ld, \"failed\": %ld, \"bytes\": %lld, ", held, ended, failed, (long long)moved);
    printf("\"negotiated\": \"%s\", \"handshakes\": %ld, \"resumed\": %ld, \"tickets\": %ld, ", negotiated, handshakes,
           resumed, tickets);
    printf("\"samples\": %zu, \"p50\": %.9f, \"p99\": %.9f}\n", sample_count, percentile(.50), percentile(.99));
    fflush(stdout);
}

static void wait_for_line(void)
{
    char line[LINE_BYTES];
    if (!fgets(line, sizeof line, stdin)) exit(1);
}

/* Run one session with a full handshake. It is not counted. */
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
    sample_count = 0;
}

static int clients(void)
{
    struct stage_start started_at = begin_stage();
    sessions = zeroed((size_t)job.count, sizeof *sessions);
    if (job.mode != SESSIONS) stage_drive();
    else if (job.resume) get_first_ticket();
    report("ready", started_at);
    wait_for_line();

    started_at = begin_stage();
    stage_work();
    report("worked", started_at);
    wait_for_line();

    started_at = begin_stage();
    for_each_held(log_out, true);
    stage_drive();
    report("closed", started_at);
    return failed > 0;
}

/* ---------------------------------------------------------------- command line */

static int usage_error(void)
{
    fprintf(stderr, "usage: load server | load MODE PORT --count N [--at-once N] [--seconds S | --trips T] [--bytes B] "
                    "[--tls | --resume | --hello] [--tls-1.2]\n");
    return 2;
}

static void count_tickets(void)
{
    SSL_CTX_set_session_cache_mode(tls, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(tls, on_new_ticket);
}

/* Make the ClientHello for all sessions: OpenSSL starts a handshake with memory BIOs. */
static void prepare_hello(void)
{
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    SSL *ssl = context ? SSL_new(context) : NULL;
    BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());
    if (!ssl || !in || !out) die("ClientHello");
    SSL_set_bio(ssl, in, out);
    SSL_set_tlsext_host_name(ssl, SERVER_NAME);
    SSL_set_connect_state(ssl);
    SSL_do_handshake(ssl);                   /* stops when it needs an answer */
    if (!BIO_read_ex(out, hello, sizeof hello, &hello_size)) die("ClientHello");
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
        {"starttls", no_argument, NULL, 'u'},      {"trips", required_argument, NULL, 'n'},
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
        case 'n': job.trips = atol(optarg); break;
        case 'r': job.resume = true; /* fall through */
        case 't': prepare_tls(); break;
        case 'u': job.starttls = true; prepare_tls(); break;
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
    /* Otherwise each answer preempts the proxy where they share a processor, and the proxy's time has what that costs. */
    sched_setscheduler(0, SCHED_BATCH, &(struct sched_param){0});
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (poller < 0) die("epoll_create");
    prepare_bulk();
    if (argc == 2 && !strcmp(argv[1], "server")) return server();
    if (!read_options(argc, argv) || !read_job(argv[optind], argv[optind + 1])) return usage_error();
    return clients();
}
