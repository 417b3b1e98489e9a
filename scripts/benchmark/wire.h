/* The wire: one nonblocking socket, in clear or under TLS, with the poller that it is watched by. */
#ifndef WIRE_H
#define WIRE_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { LINE_BYTES = 512 };   /* longest line either side may send; ours have under 60 */

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

extern int poller;
extern SSL_CTX *tls;         /* NULL: the clients speak in clear */
extern char fault[256];      /* why the last step was BROKEN */
extern const char SERVER_NAME[];

double now(void);
_Noreturn void die(const char *what);
void *zeroed(size_t count, size_t size);

/* The certificate is not looked at: it is a fresh one of this run. */
void prepare_tls(void);
/* The number of the port of 127.0.0.1 that is listened on from now on; events for it have this owner. */
int wire_listen(int *listener, void *owner);
/* False: there is none waiting any more. */
bool wire_accept(struct wire *w, int listener);
/* False: errno says why not. What is connected is seen when there is room. */
bool wire_connect(struct wire *w, int port, bool under_tls);
enum step wire_handshake(struct wire *w);
enum step wire_read(struct wire *w, void *into, size_t room, size_t *got);
enum step wire_write(struct wire *w, const void *from, size_t size, size_t *gone);
void wire_want(struct wire *w, uint32_t events, void *owner);
void wire_close(struct wire *w);

/* Lines, of which a few bytes are kept on either way. */
enum step wire_flush(struct wire *w);
enum step wire_fill(struct wire *w);
void wire_drop(struct wire *w, size_t size);
/* The next whole line without its CRLF, if there is one. */
bool wire_line(struct wire *w, char line[LINE_BYTES]);
__attribute__((format(printf, 2, 3))) void wire_say(struct wire *w, const char *form, ...);
/* Level-triggered, and only what the last step waits for: the rest would make the loop spin. */
void wire_watch(struct wire *w, enum step step, void *owner);

#endif
