# The only file that names headers of csrc/. Everything above speaks C through these declarations.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t

cdef extern from "base.h" nogil:
    ctypedef struct fs_span:
        uint32_t off
        uint32_t len

    ctypedef struct fs_limits:
        uint32_t request_line_bytes_max
        uint32_t head_bytes_max
        uint32_t fields_max
        uint32_t leading_crlf_max
        uint64_t body_bytes_max
        uint32_t chunk_ext_bytes_max
        uint32_t trailer_bytes_max
        uint32_t drain_bytes_max

    const uint64_t FS_UNLIMITED

cdef extern from "errors.h" nogil:
    ctypedef enum fs_error:
        FS_E_NONE
        FS_E_INCOMPLETE
        FS_E_HEAD_TIMEOUT
        FS_E_BODY_LENGTH
        FS_E_BODY_TIMEOUT
        FS_E_PROXY_HEADER
        FS_E_BODY_RATE
        FS_E_REQUEST_TIMEOUT
        FS_E_OVERLOADED
        FS_E_NO_BUFFERS
        FS_E_STATE
        FS_E_STATUS
        FS_E_RESPONSE_FIELD_NAME
        FS_E_RESPONSE_FIELD_VALUE
        FS_E_RESPONSE_REASON
        FS_E_RESPONSE_FRAMING
        FS_E_RESPONSE_TOO_LONG
        FS_E_RESPONSE_TOO_SHORT
        FS_E_NO_SPACE
        FS_E_COUNT

    ctypedef struct fs_error_row:
        const char *name
        uint16_t status
        const char *text
        const char *rule

    const fs_error_row *fs_error_info(fs_error error)

cdef extern from "status.h" nogil:
    const char *fs_status_reason(unsigned status)

cdef extern from "scan.h" nogil:
    ctypedef const uint8_t *(*fs_scan_fn)(const uint8_t *p, const uint8_t *end)

    ctypedef struct fs_scan_kernels:
        const char *name
        fs_scan_fn token
        fs_scan_fn target
        fs_scan_fn value

    const fs_scan_kernels *fs_scan
    bint fs_scan_choose(const char *name)
    const fs_scan_kernels *fs_scan_level(unsigned i)

cdef extern from "target.h" nogil:
    ctypedef enum fs_target_form:
        FS_TARGET_ORIGIN
        FS_TARGET_ABSOLUTE
        FS_TARGET_AUTHORITY
        FS_TARGET_ASTERISK

    ctypedef struct fs_target:
        uint8_t form
        bint has_query
        bint has_percent
        fs_span scheme
        fs_span authority
        fs_span path
        fs_span query

    fs_error fs_target_parse(const uint8_t *p, size_t len, bint connect, bint options, fs_target *out)
    bint fs_host_valid(const uint8_t *p, size_t len)
    size_t fs_percent_decode(const uint8_t *p, size_t len, uint8_t *out)

cdef extern from "proxy.h" nogil:
    ctypedef struct fs_address:
        uint8_t bytes[16]

    ctypedef struct fs_proxy:
        uint8_t family
        uint16_t source_port
        uint16_t destination_port
        fs_address source
        fs_address destination

    int fs_proxy_parse(const uint8_t *data, size_t len, fs_proxy *out)
    unsigned fs_address_parse(const uint8_t *p, size_t len, fs_address *out)
    bint fs_address_within(const fs_address *address, const fs_address *network, unsigned bits)

cdef extern from "date.h" nogil:
    enum: FS_DATE_LEN
    void fs_date_format(int64_t seconds, uint8_t *out)

cdef extern from "field_names.h" nogil:
    enum:
        FS_FIELD_UNKNOWN
        FS_FIELD_HOST
        FS_FIELD_CONNECTION
        FS_FIELD_CONTENT_LENGTH
        FS_FIELD_TRANSFER_ENCODING
        FS_FIELD_DATE
        FS_FIELD_CONTENT_TYPE
        FS_FIELD_COOKIE
        FS_FIELD_TE
        FS_FIELD_TRACEPARENT
        FS_FIELD_FORWARDED
        FS_FIELD_X_FORWARDED_FOR
        FS_FIELD_X_FORWARDED_HOST
        FS_FIELD_X_FORWARDED_PORT
        FS_FIELD_X_FORWARDED_PREFIX
        FS_FIELD_X_FORWARDED_PROTO
        FS_FIELD_ACCEPT_ENCODING
        FS_FIELD_IF_MATCH
        FS_FIELD_IF_MODIFIED_SINCE
        FS_FIELD_IF_NONE_MATCH
        FS_FIELD_IF_RANGE
        FS_FIELD_IF_UNMODIFIED_SINCE
        FS_FIELD_RANGE
        FS_FIELD_COUNT

    uint16_t fs_field_id(const uint8_t *name, size_t len)
    const char *const *fs_field_text
    const uint8_t *fs_field_text_len

cdef extern from "request.h" nogil:
    ctypedef struct fs_field:
        uint32_t name
        uint32_t value
        uint32_t value_len
        uint16_t name_len
        uint16_t id

    enum:
        FS_METHOD_OTHER
        FS_METHOD_GET
        FS_METHOD_HEAD
        FS_METHOD_POST
        FS_METHOD_PUT
        FS_METHOD_DELETE
        FS_METHOD_CONNECT
        FS_METHOD_OPTIONS
        FS_METHOD_TRACE
        FS_METHOD_PATCH
        FS_METHOD_COUNT
        FS_BODY_NONE
        FS_BODY_LENGTH
        FS_BODY_CHUNKED
        FS_DONE
        FS_MORE

    ctypedef struct fs_request_head:
        uint32_t start
        uint32_t end
        fs_span method
        fs_span target
        fs_target parts
        fs_span host
        uint32_t fields_count
        uint64_t content_length
        uint8_t method_id
        uint8_t version_major
        uint8_t version_minor
        uint8_t framing
        bint keep_alive
        bint expect_continue
        bint upgrade
        bint forwarded

    void fs_request_head_init(fs_request_head *head)
    int fs_request_head_parse(fs_request_head *head, const uint8_t *data, size_t len, fs_field *fields,
                              const fs_limits *limits)
    bint fs_trailer_allowed(uint16_t id)
    bint fs_text_equal(const uint8_t *p, size_t len, const char *text, size_t text_len)
    const char *fs_method_name(unsigned id)

cdef extern from "response.h" nogil:
    ctypedef struct fs_out:
        uint8_t *data
        size_t len
        size_t cap

    fs_error fs_response_status_line(fs_out *out, unsigned status, const uint8_t *reason, size_t reason_len)
    fs_error fs_response_field(fs_out *out, const uint8_t *name, size_t name_len, const uint8_t *value, size_t value_len)
    fs_error fs_response_content_length(fs_out *out, uint64_t n)
    fs_error fs_response_number(fs_out *out, uint64_t n)
    fs_error fs_response_raw(fs_out *out, const void *text, size_t len)
    fs_error fs_response_chunk(fs_out *out, const void *data, size_t len)
    fs_error fs_response_chunk_head(fs_out *out, size_t len)

cdef extern from "body.h" nogil:
    ctypedef struct fs_body:
        uint8_t framing
        uint64_t remaining

cdef extern from "conn.h" nogil:
    enum:
        FS_HEAD
        FS_BODY
        FS_DONE_STATE
        FS_CLOSED
        FS_STAY
        FS_ANY

    ctypedef enum fs_conn_happening:
        FS_ON_SEND_HEAD
        FS_ON_COUNT

    ctypedef struct fs_conn_row:
        uint8_t happening
        uint8_t reading_from
        uint8_t writing_from
        uint8_t reading_to
        uint8_t writing_to
        const char *name
        const char *why

    const fs_conn_row *fs_conn_table
    const unsigned fs_conn_table_len
    const char *const *fs_side_state_name

    ctypedef enum fs_event_type:
        FS_NEED_DATA
        FS_PAUSED
        FS_REQUEST_HEAD
        FS_BODY_BYTES
        FS_END_OF_MESSAGE
        FS_UPGRADED
        FS_ERROR
        FS_CLOSED_EVENT

    ctypedef struct fs_event:
        fs_event_type type
        size_t consumed
        size_t data_off
        size_t data_len
        uint32_t trailers

    enum:
        FS_FRAME_NONE
        FS_FRAME_LENGTH
        FS_FRAME_CHUNKED
        FS_FRAME_CLOSE

    ctypedef struct fs_response_plan:
        uint8_t frame
        bint body
        bint close
        bint say_keep_alive
        uint64_t content_length

    ctypedef struct fs_conn:
        const fs_limits *limits
        uint8_t reading
        uint8_t writing
        bint keep_alive
        bint upgraded
        bint head_request
        bint connect_request
        bint chunked_out
        bint length_out
        bint body_out
        fs_error error
        uint64_t owed
        uint64_t drained
        fs_request_head head
        fs_body body

    void fs_conn_init(fs_conn *conn, const fs_limits *limits)
    void fs_conn_receive(fs_conn *conn, const uint8_t *data, size_t len, fs_field *fields, fs_event *event)
    fs_error fs_conn_eof(fs_conn *conn, size_t buffered)
    void fs_conn_refuse(fs_conn *conn, fs_error error)
    fs_error fs_conn_limit_body(fs_conn *conn, uint64_t max)
    bint fs_conn_busy(const fs_conn *conn)
    bint fs_conn_body_pending(const fs_conn *conn)
    uint32_t fs_conn_fields_needed(const fs_conn *conn)
    bint fs_conn_head_begun(const fs_conn *conn)
    fs_error fs_conn_send_1xx(fs_conn *conn, unsigned status)
    fs_error fs_conn_send_head(fs_conn *conn, unsigned status, int64_t content_length, bint close, bint upgrade,
                               fs_response_plan *plan)
    fs_error fs_conn_send_body(fs_conn *conn, uint64_t len)
    fs_error fs_conn_send_end(fs_conn *conn)
    bint fs_conn_next(fs_conn *conn)
    void fs_conn_close(fs_conn *conn)
    const char *fs_conn_word(const fs_conn *conn, uint64_t served)

cdef extern from "websocket.h" nogil:
    ctypedef enum fs_ws_error:
        FS_WS_E_none
        FS_WS_E_text
        FS_WS_E_compressed
        FS_WS_E_too_big
        FS_WS_E_COUNT

    ctypedef struct fs_ws_error_row:
        const char *name
        uint16_t code
        const char *text
        const char *rule

    const fs_ws_error_row *fs_ws_error_info(fs_ws_error error)

    enum:
        FS_WS_CONTINUATION
        FS_WS_TEXT
        FS_WS_BINARY
        FS_WS_CLOSE
        FS_WS_PING
        FS_WS_PONG
        FS_WS_NEED_DATA
        FS_WS_DATA
        FS_WS_CONTROL
        FS_WS_ERROR
        FS_WS_OVER
        FS_WS_HEAD_MAX

    ctypedef struct fs_utf8:
        uint8_t missing
        uint8_t low
        uint8_t high

    ctypedef struct fs_ws_event:
        int type
        size_t consumed
        size_t data_off
        size_t data_len
        uint32_t key
        uint8_t opcode
        bint first
        bint last
        bint compressed
        uint64_t frame_left

    ctypedef struct fs_ws:
        uint64_t message_bytes_max
        bint deflate
        bint any_masking
        uint8_t state
        fs_ws_error error
        uint8_t control[125]
        uint8_t control_len
        uint16_t close_code

    bint fs_utf8_check(fs_utf8 *utf8, const uint8_t *p, size_t len)
    void fs_ws_init(fs_ws *ws, uint64_t message_bytes_max, bint deflate)
    void fs_ws_receive(fs_ws *ws, const uint8_t *data, size_t len, fs_ws_event *event)
    bint fs_ws_unmask(uint8_t *out, const uint8_t *data, size_t len, uint32_t key)
    void fs_ws_refuse(fs_ws *ws, fs_ws_error error)
    size_t fs_ws_head(uint8_t *out, unsigned opcode, bint final, bint compressed, uint64_t len)
    bint fs_ws_close_code_valid(unsigned code)

cdef extern from "logline.h" nogil:
    ctypedef struct fs_log_text:
        const uint8_t *p
        uint32_t len

    ctypedef struct fs_log_piece:
        uint32_t kind
        uint32_t len
        const uint8_t *text
        const uint8_t *tail
        uint32_t tail_len
        uint32_t found

    ctypedef struct fs_log_facts:
        const fs_request_head *head
        const uint8_t *data
        const fs_field *fields
        fs_log_text peer
        fs_log_text time
        fs_log_text pid
        fs_log_text id
        const fs_log_text *found
        unsigned status
        uint64_t body_bytes
        uint64_t ns
        const int64_t *moments
        bint json
        bint usual

    ctypedef struct fs_log_room:
        size_t fixed
        size_t each

    enum:
        FS_LOG_SLACK
        FS_LOG_LITERAL
        FS_LOG_PEER
        FS_LOG_HOST
        FS_LOG_PORT
        FS_LOG_DASH
        FS_LOG_FOUND
        FS_LOG_TIME
        FS_LOG_PID
        FS_LOG_REQUEST_LINE
        FS_LOG_METHOD
        FS_LOG_PATH
        FS_LOG_QUERY
        FS_LOG_PROTOCOL
        FS_LOG_VERSION
        FS_LOG_STATUS
        FS_LOG_BYTES
        FS_LOG_BYTES_OR_DASH
        FS_LOG_S
        FS_LOG_MS
        FS_LOG_US
        FS_LOG_S_DECIMAL
        FS_LOG_MS_DECIMAL
        FS_LOG_QUEUE
        FS_LOG_HANDLER
        FS_LOG_SENDING
        FS_LOG_ID
        FS_LOG_FIELD

    fs_log_room fs_log_line_room(const fs_log_piece *pieces, size_t count, bint json)
    bint fs_log_usual(const fs_log_piece *pieces, size_t count, bint json)
    size_t fs_log_line(uint8_t *out, const fs_log_piece *pieces, size_t count, const fs_log_facts *facts)
