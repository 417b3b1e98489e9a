#define _GNU_SOURCE
#include "wire.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

int poller;
SSL_CTX *tls;
char fault[256];
const char SERVER_NAME[] = "imap.example.com";

double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

void die(const char *what)
{
    perror(what);
    exit(1);
}

void *zeroed(size_t count, size_t size)
{
    void *memory = calloc(count, size);
    if (!memory) die("memory");
    return memory;
}

void prepare_tls(void)
{
    tls = SSL_CTX_new(TLS_client_method());
    if (!tls) die("SSL_CTX_new");
    SSL_CTX_set_verify(tls, SSL_VERIFY_NONE, NULL);
    SSL_CTX_set_session_cache_mode(tls, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_mode(tls, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_options(tls, SSL_OP_IGNORE_UNEXPECTED_EOF);  /* an end without close_notify is orderly, too */
}

static void set_nodelay(int fd)
{
    int yes = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
}

static struct sockaddr_in loopback(int port)
{
    return (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

int wire_listen(int *listener, void *owner)
{
    struct sockaddr_in address = loopback(0);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = owner};
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (void *)&address, size) || listen(fd, 65535)) die("listen");
    getsockname(fd, (void *)&address, &size);
    epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
    *listener = fd;
    return ntohs(address.sin_port);
}

bool wire_accept(struct wire *w, int listener)
{
    w->fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (w->fd < 0 && (errno == EAGAIN || errno == ECONNABORTED)) return false;
    if (w->fd < 0) die("accept");
    set_nodelay(w->fd);
    return true;
}

bool wire_connect(struct wire *w, int port, bool under_tls)
{
    struct sockaddr_in proxy = loopback(port);
    w->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (w->fd < 0) die("socket");
    set_nodelay(w->fd);
    if (connect(w->fd, (void *)&proxy, sizeof proxy) && errno != EINPROGRESS) return false;
    if (under_tls) wire_start_tls(w);
    return true;
}

void wire_start_tls(struct wire *w)
{
    w->ssl = SSL_new(tls);
    if (!w->ssl) die("SSL_new");
    SSL_set_tlsext_host_name(w->ssl, SERVER_NAME);
    SSL_set_fd(w->ssl, w->fd);
    SSL_set_connect_state(w->ssl);
    w->handshaking = true;
}

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

enum step wire_read(struct wire *w, void *into, size_t room, size_t *got)
{
    if (!w->ssl) {
        ssize_t n = recv(w->fd, into, room, 0);
        *got = n > 0 ? (size_t)n : 0;
        return clear_step(n, AWAIT_INPUT);
    }
    ERR_clear_error();
    return SSL_read_ex(w->ssl, into, room, got) ? GO : tls_step(w, 0);
}

enum step wire_write(struct wire *w, const void *from, size_t size, size_t *written)
{
    if (!w->ssl) {
        ssize_t n = send(w->fd, from, size, MSG_NOSIGNAL);
        *written = n > 0 ? (size_t)n : 0;
        return clear_step(n, AWAIT_ROOM);
    }
    ERR_clear_error();
    return SSL_write_ex(w->ssl, from, size, written) ? GO : tls_step(w, 0);
}

enum step wire_handshake(struct wire *w)
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

enum step wire_flush(struct wire *w)
{
    while (w->sent < w->queued) {
        size_t written;
        enum step step = wire_write(w, w->out + w->sent, w->queued - w->sent, &written);
        if (step != GO) return step;
        w->sent += written;
    }
    w->queued = w->sent = 0;
    return GO;
}

enum step wire_fill(struct wire *w)
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

void wire_drop(struct wire *w, size_t size)
{
    w->have -= size;
    memmove(w->in, w->in + size, w->have);
}

bool wire_line(struct wire *w, char line[LINE_BYTES])
{
    char *end = memchr(w->in, '\n', w->have);
    if (!end) return false;
    size_t size = (size_t)(end - w->in);
    memcpy(line, w->in, size);
    line[size > 0 && line[size - 1] == '\r' ? size - 1 : size] = 0;
    wire_drop(w, size + 1);
    return true;
}

void wire_printf(struct wire *w, const char *format, ...)
{
    va_list values;
    va_start(values, format);
    size_t room = sizeof w->out - w->queued;
    int n = vsnprintf(w->out + w->queued, room, format, values);
    va_end(values);
    if (n < 0 || (size_t)n >= room) die("the output buffer is full");
    w->queued += (size_t)n;
}

void wire_want(struct wire *w, uint32_t events, void *owner)
{
    if (w->watched == events) return;
    struct epoll_event event = {.events = events, .data.ptr = owner};
    if (epoll_ctl(poller, w->watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, w->fd, &event)) die("epoll_ctl");
    w->watched = events;
}

void wire_watch(struct wire *w, enum step step, void *owner)
{
    wire_want(w, step == AWAIT_ROOM ? EPOLLOUT : EPOLLIN, owner);
}

void wire_close(struct wire *w)
{
    SSL_free(w->ssl);
    w->ssl = NULL;
    close(w->fd);
}
