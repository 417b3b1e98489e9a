/* A wire: one nonblocking socket, in clear or under TLS, watched by epoll. */
#ifndef WIRE_H
#define WIRE_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { LINE_BYTES = 512 };   /* the longest line that either side may send; ours have under 60 bytes */

/* The result of a read or write. GO: bytes moved, try again. ENDED: the other side closed in order. */
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

extern int poller;
extern SSL_CTX *tls;         /* NULL: the clients do not use TLS */
extern char fault[256];      /* the reason if the last step was BROKEN */
extern const char SERVER_NAME[];

double now(void);
_Noreturn void die(const char *what);
void *zeroed(size_t count, size_t size);

/* The certificate is not verified: each run makes a new one. */
void prepare_tls(void);
/* Listen on a free port of 127.0.0.1, and return the port. Events of the listener have this owner. */
int wire_listen(int *listener, void *owner);
/* False: no connection is waiting. */
bool wire_accept(struct wire *w, int listener);
/* False: errno is the reason. The connection is established when the socket becomes writable. */
bool wire_connect(struct wire *w, int port, bool under_tls);
void wire_start_tls(struct wire *w);
enum step wire_handshake(struct wire *w);
enum step wire_read(struct wire *w, void *into, size_t room, size_t *got);
enum step wire_write(struct wire *w, const void *from, size_t size, size_t *written);
void wire_want(struct wire *w, uint32_t events, void *owner);
void wire_close(struct wire *w);

/* Lines, with a small buffer in each direction. */
enum step wire_flush(struct wire *w);
enum step wire_fill(struct wire *w);
void wire_drop(struct wire *w, size_t size);
/* Take the next complete line, without its CRLF, if there is one. */
bool wire_line(struct wire *w, char line[LINE_BYTES]);
__attribute__((format(printf, 2, 3))) void wire_printf(struct wire *w, const char *format, ...);
/* Level-triggered, and only for what the last step waits for: other events would make the loop spin. */
void wire_watch(struct wire *w, enum step step, void *owner);

#endif
