/* Frames and fields out of bytes, and back. */
#include "wire.h"

static u32 le32(const u8 *at) { return at[0] | (u32)at[1] << 8 | (u32)at[2] << 16 | (u32)at[3] << 24; }

int read_header(const u8 *bytes, struct frame *frame) {
    frame->size = le32(bytes);
    frame->channel = le32(bytes + 4);
    frame->type = (u16)(bytes[8] | bytes[9] << 8);
    frame->flags = (u16)(bytes[10] | bytes[11] << 8);
    return frame->size > FRAME_MAX ? -EMSGSIZE : 0;
}

void write_header(u8 *bytes, const struct frame *frame) {
    for (int at = 0; at < 4; at++) bytes[at] = (u8)(frame->size >> 8 * at), bytes[4 + at] = (u8)(frame->channel >> 8 * at);
    bytes[8] = (u8)frame->type, bytes[9] = (u8)(frame->type >> 8);
    bytes[10] = (u8)frame->flags, bytes[11] = (u8)(frame->flags >> 8);
}

enum { FIELD_HEADER = 6 }; /* key, size */

int next_field(const u8 *message, size count, size *offset, struct field *field) {
    size left = count - *offset;
    if (!left) return 0;
    if (left < FIELD_HEADER) return -EBADMSG;
    const u8 *at = message + *offset;
    u32 length = le32(at + 2);
    if (length > left - FIELD_HEADER) return -EBADMSG;
    field->key = (u16)(at[0] | at[1] << 8);
    field->size = length;
    field->at = at + FIELD_HEADER;
    *offset += FIELD_HEADER + length;
    return 1;
}

int check_fields(const u8 *message, size count) {
    size offset = 0;
    struct field field;
    int found;
    while ((found = next_field(message, count, &offset, &field)) > 0) {}
    return found;
}

int get_field(const u8 *message, size count, u16 key, struct field *field) {
    size offset = 0;
    while (next_field(message, count, &offset, field) > 0)
        if (field->key == key) return 1;
    return 0;
}

u64 field_number(const struct field *field) {
    u64 number = 0;
    for (u32 at = 0; at < field->size && at < 8; at++) number |= (u64)field->at[at] << 8 * at;
    return number;
}

u64 get_number(const u8 *message, size count, u16 key, u64 otherwise) {
    struct field field;
    return get_field(message, count, key, &field) ? field_number(&field) : otherwise;
}

int get_text(const u8 *message, size count, u16 key, char *into, size room) {
    struct field field;
    into[0] = 0;
    if (!get_field(message, count, key, &field) || field.size >= room) return 0;
    memcpy(into, field.at, field.size);
    into[field.size] = 0;
    return 1;
}

void put_field(struct message *message, u16 key, const void *what, size count) {
    if (message->full || message->room - message->used < FIELD_HEADER + count) {
        message->full = 1;
        return;
    }
    u8 *at = message->at + message->used;
    at[0] = (u8)key, at[1] = (u8)(key >> 8);
    for (int byte = 0; byte < 4; byte++) at[2 + byte] = (u8)(count >> 8 * byte);
    memcpy(at + FIELD_HEADER, what, count);
    message->used += FIELD_HEADER + count;
}

void put_number(struct message *message, u16 key, u64 number) {
    u8 bytes[8];
    for (int at = 0; at < 8; at++) bytes[at] = (u8)(number >> 8 * at);
    put_field(message, key, bytes, sizeof bytes);
}

void put_text(struct message *message, u16 key, const char *text) { put_field(message, key, text, length(text)); }
