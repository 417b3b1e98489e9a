/* Mixed traffic: both ends of many sessions through a proxy, in clear and under TLS. Every byte that arrives is compared.
 *
 *   mixed --bytes B [--at-once N] [--seed S]
 *
 * Prints the port that its servers listen on, and reads a line with two ports of the proxy: one for clear clients, one for
 * TLS clients. Then it runs sessions until B bytes have moved, in both directions together, and prints one line of JSON. The
 * exit code is 1 if a session failed. The first reason goes to stderr.
 *
 * The bytes of a direction are computed from a key, so the other end knows them: a byte that is wrong, lost, doubled or out
 * of place is noticed where it arrives. Sizes are from 0 to 64 MiB, with each power of two as frequent as the others. Both
 * ends stop writing or reading for a moment now and then. One direction ends and the other goes on. Under TLS the client
 * always closes first, because what a client sends while its server closes may be lost there.
 */
#define _GNU_SOURCE
#include "wire.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <openssl/err.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    SLICE_BYTES = 256 * 1024,
    TURN_BYTES = 1024 * 1024,    /* then the other ends get their turn */
    LARGEST_POWER = 26,          /* 64 MiB */
    EMPTY_ONE_IN = 16,           /* directions that carry nothing */
    STALL_ONE_IN = 256,          /* reads or writes after which an end pauses */
    NUMBER_BYTES = 8,            /* a client's first bytes, which tell the server's end which session it is */
    EVENTS = 256,
    TICK_MS = 5,
};
static const double STALL_SECONDS = 0.03;    /* the longest stall */
static const double MAX_IDLE_SECONDS = 30;   /* a session without a byte for this long is starved */

enum order { CLIENT_ENDS_FIRST, SERVER_ENDS_FIRST, INDEPENDENT };

struct direction {
    uint64_t key;
    int64_t number;              /* sent first; negative: none */
    int64_t size, sent, received;
    size_t offered;              /* TLS: size of a blocked write, which must be repeated with the same size */
    double waiting_since;        /* bytes are on their way since then; 0: none */
    bool eof_sent, eof_received;
};

struct end {
    struct wire wire;
    struct session *session;     /* NULL: a server's end whose number has not arrived yet */
    unsigned char number[NUMBER_BYTES];
    size_t number_size;
    double send_paused_until, receive_paused_until;
    bool is_client, gone;
};

struct session {
    struct end *client, *server;
    struct direction up, down;
    enum order order;
    double moved_at;
    long index;                  /* in "sessions" */
};

static struct { int64_t bytes; long at_once; uint64_t seed; int clear_port, tls_port; } job = {.at_once = 32, .seed = 1};
static struct session **sessions;
static struct end **ends;        /* the open ones, and closed ones until the next sweep */
static size_t ends_open, ends_room;
static int64_t planned, next_number;
static long opened, opened_tls, finished, failed, half_closed, stalls;
static int64_t received_up, received_down;
static double longest_wait;

/* ---------------------------------------------------------------- random numbers, and the bytes of a key */

static uint64_t mix(uint64_t x)  /* splitmix64 */
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

static uint64_t random_u64(void)
{
    return mix(job.seed += 0x9e3779b97f4a7c15);
}

static bool one_in(uint64_t n)
{
    return random_u64() % n == 0;
}

static double random_fraction(void)
{
    return (double)(random_u64() >> 11) / (double)(1ull << 53);
}

/* Return a size up to the power of two, each power as frequent as the others. */
static int64_t random_size(int power)
{
    return (int64_t)exp2(random_fraction() * power);
}

/* Return these bytes of a direction. They are valid until the next call. */
static const unsigned char *bytes_of(const struct direction *direction, int64_t at, size_t size)
{
    static uint64_t words[SLICE_BYTES / 8 + 2];
    uint64_t first = (uint64_t)at / 8, count = ((uint64_t)at % 8 + size + 7) / 8;
    for (uint64_t i = 0; i < count; i++) words[i] = mix(direction->key + (first + i) * 0x9e3779b97f4a7c15);
    if (!first && direction->number >= 0) words[0] = (uint64_t)direction->number;
    return (unsigned char *)words + at % 8;
}

/* ---------------------------------------------------------------- ends */

static struct direction *outgoing(const struct end *e)
{
    return e->is_client ? &e->session->up : &e->session->down;
}

static struct direction *incoming(const struct end *e)
{
    return e->is_client ? &e->session->down : &e->session->up;
}

static struct end *new_end(struct wire wire)
{
    if (ends_open == ends_room) {
        ends_room = ends_room ? ends_room * 2 : 256;
        ends = realloc(ends, ends_room * sizeof *ends);
        if (!ends) die("memory");
    }
    struct end *e = zeroed(1, sizeof *e);
    e->wire = wire;
    return ends[ends_open++] = e;
}

static void close_end(struct end *e)
{
    if (!e || e->gone) return;
    e->gone = true;
    wire_close(&e->wire);
}

static void close_session(struct session *s)
{
    close_end(s->client);
    close_end(s->server);
    sessions[s->index] = NULL;
    if (s->client) s->client->session = NULL;
    if (s->server) s->server->session = NULL;
    free(s);
}

static void fail_session(struct session *s, const char *why)
{
    if (!failed++)
        fprintf(stderr, "session %lld, %s, %lld of %lld bytes up, %lld of %lld down: %s\n", (long long)s->up.number,
                s->client->wire.ssl ? "TLS" : "clear", (long long)s->up.received, (long long)s->up.size,
                (long long)s->down.received, (long long)s->down.size, why);
    close_session(s);
}

static void fail_end(struct end *e, const char *why)
{
    if (e->session) {
        fail_session(e->session, why);
        return;
    }
    if (!failed++) fprintf(stderr, "a server's end before its number arrived: %s\n", why);
    close_end(e);
}

static void stall(double *until)
{
    if (!one_in(STALL_ONE_IN)) return;
    *until = now() + random_fraction() * STALL_SECONDS;
    stalls++;
}

/* ---------------------------------------------------------------- receiving */

/* Find out which session a server's end belongs to. */
static enum step receive_number(struct end *e)
{
    size_t got;
    enum step step = wire_read(&e->wire, e->number + e->number_size, NUMBER_BYTES - e->number_size, &got);
    if (step == ENDED) snprintf(fault, sizeof fault, "closed before any byte");
    if (step != GO) return step == ENDED ? BROKEN : step;
    e->number_size += got;
    if (e->number_size < NUMBER_BYTES) return GO;
    int64_t number;
    memcpy(&number, e->number, sizeof number);
    for (long i = 0; i < job.at_once; i++) {
        struct session *s = sessions[i];
        if (!s || s->up.number != number || s->server) continue;
        e->session = s;
        s->server = e;
        s->up.received = NUMBER_BYTES;
        return GO;
    }
    snprintf(fault, sizeof fault, "no session has the number %lld", (long long)number);
    return BROKEN;
}

static void count_received(struct session *s, struct direction *direction, size_t got)
{
    const struct direction *other = direction == &s->up ? &s->down : &s->up;
    double at = now();
    if (direction->waiting_since && at - direction->waiting_since > longest_wait) longest_wait = at - direction->waiting_since;
    direction->received += (int64_t)got;
    direction->waiting_since = direction->sent > direction->received ? at : 0;
    s->moved_at = at;
    *(direction == &s->up ? &received_up : &received_down) += (int64_t)got;
    if (other->eof_received && direction->received == direction->size) half_closed++;
}

static enum step receive_bytes(struct end *e, size_t *got)
{
    static unsigned char buffer[SLICE_BYTES];
    *got = 0;
    if (!e->session) return receive_number(e);
    struct direction *direction = incoming(e);
    /* With a smaller buffer, OpenSSL would keep the rest of a record, and epoll would not report it. */
    size_t room = e->wire.ssl ? SLICE_BYTES : (size_t)random_size(18);
    enum step step = wire_read(&e->wire, buffer, room, got);
    if (step == ENDED && direction->received < direction->size) {
        snprintf(fault, sizeof fault, "the %s was closed too early", e->is_client ? "client" : "server");
        return BROKEN;
    }
    if (step == ENDED) direction->eof_received = true;
    if (step != GO) return step;
    if (direction->received + (int64_t)*got > direction->size || memcmp(buffer, bytes_of(direction, direction->received, *got), *got) != 0) {
        snprintf(fault, sizeof fault, "the %s received other bytes than were sent", e->is_client ? "client" : "server");
        return BROKEN;
    }
    count_received(e->session, direction, *got);
    if (!e->wire.ssl || !SSL_pending(e->wire.ssl)) stall(&e->receive_paused_until);
    return GO;
}

/* ---------------------------------------------------------------- sending */

static bool may_close(const struct end *e)
{
    switch (e->session->order) {
    case CLIENT_ENDS_FIRST: return e->is_client || incoming(e)->eof_received;
    case SERVER_ENDS_FIRST: return !e->is_client || incoming(e)->eof_received;
    default: return true;
    }
}

static enum step send_eof(struct end *e)
{
    if (!e->wire.ssl) {
        shutdown(e->wire.fd, SHUT_WR);
    } else {
        ERR_clear_error();
        int result = SSL_shutdown(e->wire.ssl);
        if (result < 0 && SSL_get_error(e->wire.ssl, result) == SSL_ERROR_WANT_WRITE) return AWAIT_ROOM;
    }
    outgoing(e)->eof_sent = true;
    return GO;
}

static bool has_data_to_send(const struct end *e)
{
    const struct direction *direction = e->session ? outgoing(e) : NULL;
    return direction && !direction->eof_sent && (direction->sent < direction->size || may_close(e));
}

static enum step send_bytes(struct end *e, size_t *written)
{
    struct direction *direction = outgoing(e);
    *written = 0;
    if (direction->sent == direction->size) return send_eof(e);
    int64_t size = direction->offered ? (int64_t)direction->offered : random_size(18);
    if (size > direction->size - direction->sent) size = direction->size - direction->sent;
    enum step step = wire_write(&e->wire, bytes_of(direction, direction->sent, (size_t)size), (size_t)size, written);
    direction->offered = step == GO ? 0 : (size_t)size;
    if (step == ENDED) {
        snprintf(fault, sizeof fault, "closed for writing");
        return BROKEN;
    }
    if (step != GO) return step;
    direction->sent += (int64_t)*written;
    if (!direction->waiting_since) direction->waiting_since = now();
    stall(&e->send_paused_until);
    return GO;
}

/* ---------------------------------------------------------------- driving */

static bool is_done(const struct end *e)
{
    return e->session && outgoing(e)->eof_sent && incoming(e)->eof_received;
}

static bool wants_receive(const struct end *e)
{
    return !(e->session && incoming(e)->eof_received) && now() >= e->receive_paused_until;
}

static bool wants_send(const struct end *e)
{
    return has_data_to_send(e) && now() >= e->send_paused_until;
}

/* Go on until the wire blocks or the turn is used up. */
static enum step drive_one(struct end *e, bool (*wants)(const struct end *), enum step (*does)(struct end *, size_t *))
{
    enum step step = GO;
    for (size_t turn = 0, moved = 0; step == GO && turn < TURN_BYTES && wants(e); turn += moved) step = does(e, &moved);
    return step;
}

static void end_drive(struct end *e)
{
    enum step step = e->wire.handshaking ? wire_handshake(&e->wire) : GO;
    if (step == GO) step = drive_one(e, wants_receive, receive_bytes);
    if (step != BROKEN && !e->wire.handshaking && e->session) step = drive_one(e, wants_send, send_bytes);
    if (step == BROKEN) {
        fail_end(e, fault);
        return;
    }
    struct session *s = e->session;
    if (!is_done(e)) return;
    close_end(e);
    if (!s->server || !s->client->gone || !s->server->gone) return;
    close_session(s);
    finished++;
}

/* Set the events to wait for. They also change with time, as pauses end. */
static void end_watch(struct end *e)
{
    uint32_t events = EPOLLPRI;      /* never occurs: the set must not be empty */
    if (e->wire.handshaking) {
        events |= SSL_want_write(e->wire.ssl) || !e->wire.watched ? EPOLLOUT : EPOLLIN;
    } else {
        if (wants_receive(e)) events |= EPOLLIN;
        if (wants_send(e)) events |= EPOLLOUT;
    }
    wire_want(&e->wire, events, e);
}

static void accept_ends(int listener)
{
    struct wire wire = {0};
    while (wire_accept(&wire, listener)) end_watch(new_end(wire));
}

static int64_t planned_size(int64_t min_size)
{
    int64_t size = one_in(EMPTY_ONE_IN) ? 0 : random_size(LARGEST_POWER);
    return size > min_size ? size : min_size;
}

static void open_session(long index)
{
    struct session *s = sessions[index] = zeroed(1, sizeof *s);
    bool under_tls = opened++ % 2;
    struct wire wire = {0};
    s->index = index;
    s->up = (struct direction){.key = random_u64(), .number = next_number++, .size = planned_size(NUMBER_BYTES)};
    s->down = (struct direction){.key = random_u64(), .number = -1, .size = planned_size(0)};
    s->order = under_tls ? CLIENT_ENDS_FIRST : (enum order)(random_u64() % 3);
    s->moved_at = now();
    planned += s->up.size + s->down.size;
    opened_tls += under_tls;
    if (!wire_connect(&wire, under_tls ? job.tls_port : job.clear_port, under_tls)) die("connect");
    s->client = new_end(wire);
    s->client->session = s;
    s->client->is_client = true;
}

/* Open sessions while there are bytes to move. Return false when everything is done. */
static bool open_sessions(void)
{
    bool busy = false;
    for (long i = 0; i < job.at_once; i++) {
        if (sessions[i] && now() - sessions[i]->moved_at > MAX_IDLE_SECONDS) fail_session(sessions[i], "nothing moves");
        if (!sessions[i] && planned < job.bytes && !failed) open_session(i);
        busy |= sessions[i] != NULL;
    }
    return busy;
}

static void sweep(void)
{
    size_t left = 0;
    for (size_t i = 0; i < ends_open; i++) {
        if (ends[i]->gone && !ends[i]->session) {
            free(ends[i]);
            continue;
        }
        if (!ends[i]->gone) end_watch(ends[i]);
        ends[left++] = ends[i];
    }
    ends_open = left;
}

static void run(int listener, const void *listening)
{
    struct epoll_event events[EVENTS];
    while (open_sessions()) {
        sweep();
        int n = epoll_wait(poller, events, EVENTS, TICK_MS);
        for (int i = 0; i < n; i++) {
            struct end *e = events[i].data.ptr;
            if ((void *)e == listening) accept_ends(listener);
            else if (!e->gone) end_drive(e);
        }
    }
}

static bool read_options(int argc, char **argv)
{
    static const struct option OPTIONS[] = {
        {"bytes", required_argument, NULL, 'b'}, {"at-once", required_argument, NULL, 'a'},
        {"seed", required_argument, NULL, 's'},  {NULL, 0, NULL, 0},
    };
    int letter;
    while ((letter = getopt_long(argc, argv, "", OPTIONS, NULL)) != -1) {
        switch (letter) {
        case 'b': job.bytes = atoll(optarg); break;
        case 'a': job.at_once = atol(optarg); break;
        case 's': job.seed = strtoull(optarg, NULL, 10); break;
        default: return false;
        }
    }
    return argc == optind && job.bytes > 0 && job.at_once > 0;
}

int main(int argc, char **argv)
{
    int listener;
    char listening;                  /* only its address counts */
    signal(SIGPIPE, SIG_IGN);
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (poller < 0) die("epoll_create");
    if (!read_options(argc, argv)) {
        fprintf(stderr, "usage: mixed --bytes B [--at-once N] [--seed S]\n");
        return 2;
    }
    sessions = zeroed((size_t)job.at_once, sizeof(struct session *));
    prepare_tls();
    printf("%d\n", wire_listen(&listener, &listening));
    fflush(stdout);
    if (scanf("%d %d", &job.clear_port, &job.tls_port) != 2) return 2;
    double started_at = now();
    run(listener, &listening);
    printf("{\"sessions\": %ld, \"tls\": %ld, \"finished\": %ld, \"failed\": %ld, \"bytes_up\": %lld, \"bytes_down\": %lld, "
           "\"half_closed\": %ld, \"stalls\": %ld, \"longest_wait\": %.6f, \"seconds\": %.6f}\n",
           opened, opened_tls, finished, failed, (long long)received_up, (long long)received_down, half_closed, stalls,
           longest_wait, now() - started_at);
    return failed > 0;
}
