/* Mixed bytes: both ends of many sessions through a proxy, in clear and under TLS, and every byte that arrives compared.
 *
 *   mixed --bytes B [--at-once N] [--seed S]
 *
 * Prints the port that its servers listen on and waits for a line with two of the proxy's ports, one where clients come in
 * clear and one where they speak TLS. Then sessions come and go until B bytes have moved, both directions together. Last
 * it prints one line of JSON. The exit code is 1 if a session failed; the first reason is on stderr.
 *
 * What is sent follows from a key by calculation, so the other end knows what must come: a byte that is wrong, lost, doubled
 * or out of place is seen where it comes. Sizes are from nothing to 64 MiB, the small ones as frequent as the large; either
 * end stops writing or reading for a moment now and then; one direction ends and the other goes on. Under TLS it is always
 * the client that ends first: what a client sends while its server ends may be lost there, which is said elsewhere.
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
    TURN_BYTES = 1024 * 1024,    /* then the others have theirs */
    LARGEST_POWER = 26,          /* 64 MiB */
    EMPTY_ONE_IN = 16,           /* directions that carry nothing */
    STALL_ONE_IN = 256,          /* moves after which an end stops for a moment */
    NUMBER_BYTES = 8,            /* a client's first bytes, by which its server's end knows the session */
    EVENTS = 256,
    TICK_MS = 5,
};
static const double STALL_SECONDS = 0.03, SILENT_SECONDS = 30;   /* the longest stall; without a byte that long: starved */

enum order { CLIENT_ENDS_FIRST, SERVER_ENDS_FIRST, EACH_BY_ITSELF };

struct way {                     /* one direction */
    uint64_t key;
    int64_t number;              /* that comes first; negative: none */
    int64_t size, sent, heard;
    size_t offered;              /* TLS: a write that must be tried again with as much */
    double waiting_since;        /* bytes have been sent that have not come; 0: none */
    bool end_said, end_heard;
};

struct end {
    struct wire wire;
    struct session *session;     /* NULL: the server's, and the number has not come yet */
    unsigned char number[NUMBER_BYTES];
    size_t number_has;
    double silent_until, deaf_until;
    bool is_client, gone;
};

struct session {
    struct end *client, *server;
    struct way up, down;
    enum order order;
    double moved_at;
    long place;                  /* in "sessions" */
};

static struct { int64_t bytes; long at_once; uint64_t seed; int clear_port, tls_port; } job = {.at_once = 32, .seed = 1};
static struct session **sessions;
static struct end **ends;        /* all that are open, and those that are gone until the next sweep */
static size_t ends_open, ends_room;
static int64_t planned, next_number;
static long opened, opened_tls, finished, failed, half_closed, stalls;
static int64_t heard_up, heard_down;
static double longest_wait;

/* ---------------------------------------------------------------- chance and what follows from a key */

static uint64_t mix(uint64_t x)  /* splitmix64 */
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

static uint64_t dice(void)
{
    return mix(job.seed += 0x9e3779b97f4a7c15);
}

static bool one_in(uint64_t n)
{
    return dice() % n == 0;
}

static double part(void)
{
    return (double)(dice() >> 11) / (double)(1ull << 53);
}

/* Up to the power of two, each power as frequent as the others. */
static int64_t any_size(int power)
{
    return (int64_t)exp2(part() * power);
}

/* These bytes of a direction; the room is the caller's until the next call. */
static const unsigned char *bytes_of(const struct way *way, int64_t at, size_t size)
{
    static uint64_t words[SLICE_BYTES / 8 + 2];
    uint64_t first = (uint64_t)at / 8, count = ((uint64_t)at % 8 + size + 7) / 8;
    for (uint64_t i = 0; i < count; i++) words[i] = mix(way->key + (first + i) * 0x9e3779b97f4a7c15);
    if (!first && way->number >= 0) words[0] = (uint64_t)way->number;
    return (unsigned char *)words + at % 8;
}

/* ---------------------------------------------------------------- ends */

static struct way *out_of(const struct end *e)
{
    return e->is_client ? &e->session->up : &e->session->down;
}

static struct way *into(const struct end *e)
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

static void end_goes(struct end *e)
{
    if (!e || e->gone) return;
    e->gone = true;
    wire_close(&e->wire);
}

static void session_goes(struct session *s)
{
    end_goes(s->client);
    end_goes(s->server);
    sessions[s->place] = NULL;
    if (s->client) s->client->session = NULL;
    if (s->server) s->server->session = NULL;
    free(s);
}

static void session_fails(struct session *s, const char *why)
{
    if (!failed++)
        fprintf(stderr, "session %lld, %s, %lld of %lld bytes up, %lld of %lld down: %s\n", (long long)s->up.number,
                s->client->wire.ssl ? "TLS" : "clear", (long long)s->up.heard, (long long)s->up.size,
                (long long)s->down.heard, (long long)s->down.size, why);
    session_goes(s);
}

static void end_fails(struct end *e, const char *why)
{
    if (e->session) {
        session_fails(e->session, why);
        return;
    }
    if (!failed++) fprintf(stderr, "a server's end before it had its number: %s\n", why);
    end_goes(e);
}

static void stall(double *until)
{
    if (!one_in(STALL_ONE_IN)) return;
    *until = now() + part() * STALL_SECONDS;
    stalls++;
}

/* ---------------------------------------------------------------- hearing */

/* The server's end learns which session it belongs to. */
static enum step hear_number(struct end *e)
{
    size_t got;
    enum step step = wire_read(&e->wire, e->number + e->number_has, NUMBER_BYTES - e->number_has, &got);
    if (step == ENDED) snprintf(fault, sizeof fault, "an end before any byte");
    if (step != GO) return step == ENDED ? BROKEN : step;
    e->number_has += got;
    if (e->number_has < NUMBER_BYTES) return GO;
    int64_t number;
    memcpy(&number, e->number, sizeof number);
    for (long i = 0; i < job.at_once; i++) {
        struct session *s = sessions[i];
        if (!s || s->up.number != number || s->server) continue;
        e->session = s;
        s->server = e;
        s->up.heard = NUMBER_BYTES;
        return GO;
    }
    snprintf(fault, sizeof fault, "no session has the number %lld", (long long)number);
    return BROKEN;
}

static void note_heard(struct session *s, struct way *way, size_t got)
{
    const struct way *other = way == &s->up ? &s->down : &s->up;
    double at = now();
    if (way->waiting_since && at - way->waiting_since > longest_wait) longest_wait = at - way->waiting_since;
    way->heard += (int64_t)got;
    way->waiting_since = way->sent > way->heard ? at : 0;
    s->moved_at = at;
    *(way == &s->up ? &heard_up : &heard_down) += (int64_t)got;
    if (other->end_heard && way->heard == way->size) half_closed++;
}

static enum step hear(struct end *e, size_t *got)
{
    static unsigned char heard[SLICE_BYTES];
    *got = 0;
    if (!e->session) return hear_number(e);
    struct way *way = into(e);
    /* OpenSSL would keep the rest of a record where the poller does not see it */
    size_t room = e->wire.ssl ? SLICE_BYTES : (size_t)any_size(18);
    enum step step = wire_read(&e->wire, heard, room, got);
    if (step == ENDED && way->heard < way->size) {
        snprintf(fault, sizeof fault, "the %s heard an end too early", e->is_client ? "client" : "server");
        return BROKEN;
    }
    if (step == ENDED) way->end_heard = true;
    if (step != GO) return step;
    if (way->heard + (int64_t)*got > way->size || memcmp(heard, bytes_of(way, way->heard, *got), *got) != 0) {
        snprintf(fault, sizeof fault, "the %s heard other bytes than were sent", e->is_client ? "client" : "server");
        return BROKEN;
    }
    note_heard(e->session, way, *got);
    if (!e->wire.ssl || !SSL_pending(e->wire.ssl)) stall(&e->deaf_until);
    return GO;
}

/* ---------------------------------------------------------------- saying */

static bool may_end(const struct end *e)
{
    switch (e->session->order) {
    case CLIENT_ENDS_FIRST: return e->is_client || into(e)->end_heard;
    case SERVER_ENDS_FIRST: return !e->is_client || into(e)->end_heard;
    default: return true;
    }
}

static enum step say_end(struct end *e)
{
    if (!e->wire.ssl) {
        shutdown(e->wire.fd, SHUT_WR);
    } else {
        ERR_clear_error();
        int result = SSL_shutdown(e->wire.ssl);
        if (result < 0 && SSL_get_error(e->wire.ssl, result) == SSL_ERROR_WANT_WRITE) return AWAIT_ROOM;
    }
    out_of(e)->end_said = true;
    return GO;
}

static bool has_to_say(const struct end *e)
{
    const struct way *way = e->session ? out_of(e) : NULL;
    return way && !way->end_said && (way->sent < way->size || may_end(e));
}

static enum step say(struct end *e, size_t *gone)
{
    struct way *way = out_of(e);
    *gone = 0;
    if (way->sent == way->size) return say_end(e);
    int64_t size = way->offered ? (int64_t)way->offered : any_size(18);
    if (size > way->size - way->sent) size = way->size - way->sent;
    enum step step = wire_write(&e->wire, bytes_of(way, way->sent, (size_t)size), (size_t)size, gone);
    way->offered = step == GO ? 0 : (size_t)size;
    if (step == ENDED) {
        snprintf(fault, sizeof fault, "no more may be said");
        return BROKEN;
    }
    if (step != GO) return step;
    way->sent += (int64_t)*gone;
    if (!way->waiting_since) way->waiting_since = now();
    stall(&e->silent_until);
    return GO;
}

/* ---------------------------------------------------------------- driving */

static bool is_done(const struct end *e)
{
    return e->session && out_of(e)->end_said && into(e)->end_heard;
}

static bool hears(const struct end *e)
{
    return !(e->session && into(e)->end_heard) && now() >= e->deaf_until;
}

static bool says(const struct end *e)
{
    return has_to_say(e) && now() >= e->silent_until;
}

/* Until the wire or the turn is at its end. */
static enum step drive_one(struct end *e, bool (*wants)(const struct end *), enum step (*does)(struct end *, size_t *))
{
    enum step step = GO;
    for (size_t turn = 0, moved = 0; step == GO && turn < TURN_BYTES && wants(e); turn += moved) step = does(e, &moved);
    return step;
}

static void end_drive(struct end *e)
{
    enum step step = e->wire.handshaking ? wire_handshake(&e->wire) : GO;
    if (step == GO) step = drive_one(e, hears, hear);
    if (step != BROKEN && !e->wire.handshaking && e->session) step = drive_one(e, says, say);
    if (step == BROKEN) {
        end_fails(e, fault);
        return;
    }
    struct session *s = e->session;
    if (!is_done(e)) return;
    end_goes(e);
    if (!s->server || !s->client->gone || !s->server->gone) return;
    session_goes(s);
    finished++;
}

/* What is waited for changes with time, too. */
static void end_watch(struct end *e)
{
    uint32_t events = EPOLLPRI;      /* never comes, and is not nothing */
    if (e->wire.handshaking) {
        events |= SSL_want_write(e->wire.ssl) || !e->wire.watched ? EPOLLOUT : EPOLLIN;
    } else {
        if (hears(e)) events |= EPOLLIN;
        if (says(e)) events |= EPOLLOUT;
    }
    wire_want(&e->wire, events, e);
}

static void accept_ends(int listener)
{
    struct wire wire = {0};
    while (wire_accept(&wire, listener)) end_watch(new_end(wire));
}

static int64_t planned_size(int64_t least)
{
    int64_t size = one_in(EMPTY_ONE_IN) ? 0 : any_size(LARGEST_POWER);
    return size > least ? size : least;
}

static void open_session(long place)
{
    struct session *s = sessions[place] = zeroed(1, sizeof *s);
    bool under_tls = opened++ % 2;
    struct wire wire = {0};
    s->place = place;
    s->up = (struct way){.key = dice(), .number = next_number++, .size = planned_size(NUMBER_BYTES)};
    s->down = (struct way){.key = dice(), .number = -1, .size = planned_size(0)};
    s->order = under_tls ? CLIENT_ENDS_FIRST : (enum order)(dice() % 3);
    s->moved_at = now();
    planned += s->up.size + s->down.size;
    opened_tls += under_tls;
    if (!wire_connect(&wire, under_tls ? job.tls_port : job.clear_port, under_tls)) die("connect");
    s->client = new_end(wire);
    s->client->session = s;
    s->client->is_client = true;
}

/* Open sessions while there are bytes to move; false when all is done. */
static bool open_sessions(void)
{
    bool busy = false;
    for (long i = 0; i < job.at_once; i++) {
        if (sessions[i] && now() - sessions[i]->moved_at > SILENT_SECONDS) session_fails(sessions[i], "nothing moves");
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
    char listening;                  /* only its address */
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
    double since = now();
    run(listener, &listening);
    printf("{\"sessions\": %ld, \"tls\": %ld, \"finished\": %ld, \"failed\": %ld, \"bytes_up\": %lld, \"bytes_down\": %lld, "
           "\"half_closed\": %ld, \"stalls\": %ld, \"longest_wait\": %.6f, \"seconds\": %.6f}\n",
           opened, opened_tls, finished, failed, (long long)heard_up, (long long)heard_down, half_closed, stalls,
           longest_wait, now() - since);
    return failed > 0;
}
