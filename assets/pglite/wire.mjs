// PostgreSQL's wire protocol 3.0: making, taking apart and receiving messages.
// https://www.postgresql.org/docs/17/protocol-message-formats.html

export const PROTOCOL_MAJOR = 3
export const CANCEL_REQUEST = 80877102
export const SSL_REQUEST = 80877103
export const GSSENC_REQUEST = 80877104
const MAX_STARTUP_BYTES = 10_000
const MAX_MESSAGE_BYTES = 2 ** 30

/** The client has broken the protocol, or what is carried of it here: its connection ends with this message. */
export class ProtocolViolation extends Error {}

export function int16 (value) {
  const bytes = Buffer.alloc(2)
  bytes.writeInt16BE(value)
  return bytes
}

export function int32 (value) {
  const bytes = Buffer.alloc(4)
  bytes.writeInt32BE(value)
  return bytes
}

export const cstring = text => Buffer.from(text + '\0')

/** A message: its type, its length, its body. */
export function message (type, ...parts) {
  const body = Buffer.concat(parts)
  return Buffer.concat([Buffer.from(type, 'latin1'), int32(body.length + 4), body])
}

export const query = sql => message('Q', cstring(sql))
export const parse = (name, sql) => message('P', cstring(name), cstring(sql), int16(0))
export const describeStatement = name => message('D', cstring('S' + name))
export const closeStatement = name => message('C', cstring('S' + name))
export const SYNC = message('S')

export function errorResponse (severity, sqlstate, text) {
  const fields = [`S${severity}`, `V${severity}`, `C${sqlstate}`, `M${text}`]
  return message('E', ...fields.map(cstring), Buffer.alloc(1))
}

/** An ErrorResponse without its position, where that points into a text that the client has not written. */
export function withoutPosition (error) {
  const fields = error.toString('utf8', 5).split('\0')
  return message('E', Buffer.from(fields.filter(field => !field.startsWith('P')).join('\0')))
}

/** The messages in `bytes`, each as { type, whole }. */
export function * messagesIn (bytes) {
  for (let at = 0; at < bytes.length;) {
    const end = at + 1 + bytes.readInt32BE(at + 1)
    yield { type: String.fromCharCode(bytes[at]), whole: bytes.subarray(at, end) }
    at = end
  }
}

/** The first message of that type in `bytes`, whole, or undefined. */
export function findMessage (bytes, type) {
  for (const found of messagesIn(bytes)) if (found.type === type) return found.whole
}

/** The values of a DataRow's columns, in text format. */
export function textRow (whole) {
  const values = []
  for (let at = 7, count = whole.readInt16BE(5); count > 0; count--) {
    const start = at + 4
    at = start + Math.max(0, whole.readInt32BE(at))
    values.push(whole.toString('utf8', start, at))
  }
  return values
}

/** Splits `count` zero-terminated strings off the front of `body`; the last element is the rest. */
export function splitStrings (body, count) {
  const parts = []
  let at = 0
  for (; count > 0; count--) {
    const end = body.indexOf(0, at)
    if (end < 0) throw new ProtocolViolation('invalid message format')
    parts.push(body.toString('utf8', at, end))
    at = end + 1
  }
  return [...parts, body.subarray(at)]
}

/** The messages that a socket receives. What has come is given out even if the client has gone since. */
export class Reader {
  constructor (socket) {
    this.chunks = []
    this.size = 0
    this.ended = false
    this.wake = () => {}
    const end = () => {
      this.ended = true
      this.wake()
    }
    socket.on('end', end).on('close', end).on('data', chunk => {
      this.chunks.push(chunk)
      this.size += chunk.length
      this.wake()
    })
  }

  /** The first packet of a connection, which has no type; null at the end of the stream. */
  async startupPacket () {
    if (!await this.fill(4)) return null
    const length = this.chunks[0].readInt32BE(0)
    if (length < 8 || length > MAX_STARTUP_BYTES) throw new ProtocolViolation('invalid length of startup packet')
    return await this.fill(length) ? this.take(length).subarray(4) : null
  }

  /** The next message as { type, body, whole }; null at the end of the stream. */
  async next () {
    if (!await this.fill(5)) return null
    const length = this.chunks[0].readInt32BE(1)
    if (length < 4 || length > MAX_MESSAGE_BYTES) throw new ProtocolViolation('invalid message length')
    if (!await this.fill(length + 1)) return null
    const whole = this.take(length + 1)
    return { type: String.fromCharCode(whole[0]), body: whole.subarray(5), whole }
  }

  /** Waits until the first chunk holds `count` bytes; false if the stream ends before. */
  async fill (count) {
    while (this.size < count) {
      if (this.ended) return false
      await new Promise(resolve => { this.wake = resolve })
    }
    if (this.chunks[0].length < count) this.chunks = [Buffer.concat(this.chunks)]
    return true
  }

  take (count) {
    const taken = this.chunks[0].subarray(0, count)
    this.chunks[0] = this.chunks[0].subarray(count)
    if (this.chunks[0].length === 0) this.chunks.shift()
    this.size -= count
    return taken
  }
}
