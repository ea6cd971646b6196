// One client: start-up, simple and extended queries, COPY FROM STDIN, and what is to be done when it has gone.
// https://www.postgresql.org/docs/17/protocol-flow.html

import { randomInt } from 'node:crypto'
import { changesSettings, copyFromStdin, resetsSettings } from './sql.mjs'
import {
  CANCEL_REQUEST, closeStatement, cstring, describeStatement, errorResponse, findMessage, GSSENC_REQUEST, int16, int32,
  message, messagesIn, parse, PROTOCOL_MAJOR, ProtocolViolation, query, Reader, splitStrings, SSL_REQUEST, SYNC,
  withoutPosition
} from './wire.mjs'

/** PGlite's PostgreSQL sends this warning with every error; no other server does. */
const NOISE = /M# \d+: aborting transaction/
const isNoise = ({ type, whole }) => type === 'N' && NOISE.test(whole.toString('latin1'))

let lastId = 0

export class Connection {
  constructor (socket, session) {
    this.id = ++lastId
    this.socket = socket
    this.session = session
    this.reader = new Reader(socket)
    this.status = 'I' // as in ReadyForQuery: idle, in a transaction (T), in a failed one (E)
    this.inBatch = false // messages of an extended query have been run, and no Sync since
    this.skipping = false // that batch has failed: all before Sync is dropped
    this.statements = new Map() // by the client's name: { sql, copy, parse }
    this.portals = new Map() // by the client's name: the statement
    // These three are for the session, which keeps each connection's settings while another one has its turn.
    this.settings = new Map()
    this.settingsChanged = false // `settings` may no longer say what is in force
    this.defaultsLost = false // a RESET may have brought PGlite's own defaults back
    socket.on('error', () => {}) // the reader sees the end, and there is no more to it
  }

  /** Serves the client to its end. What goes wrong here ends this connection and no other. */
  async serve () {
    try {
      if (!await this.startUp()) return
      this.session.connections.add(this)
      for (let next; (next = await this.reader.next()) && next.type !== 'X';) await this.handle(next)
    } catch (error) {
      const expected = error instanceof ProtocolViolation
      if (!expected) this.complain(error)
      this.write(errorResponse('FATAL', expected ? '08P01' : 'XX000', error.message))
    } finally {
      this.socket.destroySoon()
      if (this.session.connections.has(this)) await this.cleanUp().catch(error => this.complain(error))
      this.session.release(this)
    }
  }

  /** All up to the first ReadyForQuery; false if it does not come to that. No password is asked for. */
  async startUp () {
    for (let packet; (packet = await this.reader.startupPacket());) {
      const code = packet.readInt32BE(0)
      if (code === SSL_REQUEST || code === GSSENC_REQUEST) {
        this.write(Buffer.from('N'))
        continue
      }
      if (code === CANCEL_REQUEST) return false // PGlite does not listen while it works
      if (code >> 16 !== PROTOCOL_MAJOR) throw new ProtocolViolation(`unsupported frontend protocol ${code >> 16}`)
      const parameters = startupParameters(packet.subarray(4))
      if (parameters.has('replication')) throw new ProtocolViolation('replication connections are not supported')
      this.settings = startupSettings(parameters)
      this.greet()
      return true
    }
    return false
  }

  greet () {
    const given = new Map([...this.settings].map(([name, value]) => [name.toLowerCase(), value]))
    const reported = this.session.reported.map(([name, value]) => [name, given.get(name.toLowerCase()) ?? value])
    this.write(Buffer.concat([
      message('R', int32(0)), // AuthenticationOk
      ...reported.map(([name, value]) => message('S', cstring(name), cstring(value))),
      message('K', int32(this.session.pid), int32(randomInt(2 ** 31))),
      message('Z', Buffer.from(this.status))
    ]))
  }

  async handle ({ type, body, whole }) {
    if (this.skipping && type !== 'S') return
    switch (type) {
      case 'Q':
        return this.simpleQuery(body, whole)
      case 'P': case 'B': case 'D': case 'E': case 'C':
        return this.extendedQuery(type, body)
      case 'S': case 'F': // Sync, FunctionCall
        await this.session.take(this)
        return this.finish(await this.session.run(whole))
      case 'H': // Flush: nothing is ever held back
      case 'd': case 'c': case 'f': // what a client had sent on before it heard that its COPY has failed
        return
      default:
        throw new ProtocolViolation(`invalid frontend message type ${whole[0]}`)
    }
  }

  // -- simple query ---------------------------------------------------------------------------------------------------

  async simpleQuery (body, whole) {
    await this.session.take(this)
    const [sql] = splitStrings(body, 1)
    this.statements.delete('') // a simple query drops the unnamed statement, here as everywhere
    this.session.unnamedOf = null
    this.note(sql)
    const copy = copyFromStdin(sql)
    if (!copy) return this.finish(await this.session.run(whole))
    if (!copy.alone) return this.fail(...COPY_NOT_ALONE)
    const probed = await this.session.run(Buffer.concat([this.probe(copy), SYNC]))
    const error = findMessage(probed, 'E')
    if (error) return this.finish(Buffer.concat([withoutPosition(error), findMessage(probed, 'Z')]))
    const input = await this.receiveCopy(copy, probed)
    return input.error ? this.fail(...input.error) : this.finish(await this.session.run(query(copy.sql), input.data))
  }

  // -- extended query -------------------------------------------------------------------------------------------------

  async extendedQuery (type, body) {
    await this.session.take(this)
    this.inBatch = true
    switch (type) {
      case 'P': return this.parse(body)
      case 'B': return this.bind(body)
      case 'E': return this.execute(body)
      default: return this.describeOrClose(type, body)
    }
  }

  async parse (body) {
    const [name, sql, types] = splitStrings(body, 2)
    const copy = copyFromStdin(sql)
    if (copy && !copy.alone) return this.failBatch(...COPY_NOT_ALONE)
    const renamed = message('P', cstring(this.own(name)), cstring(copy?.sql ?? sql), types)
    if (name === '') {
      this.statements.delete('')
      this.session.unnamedOf = this
    }
    if (await this.forward(renamed)) this.statements.set(name, { sql, copy, parse: renamed })
  }

  async bind (body) {
    const [portal, name, rest] = splitStrings(body, 2)
    if (name === '' && !await this.bringUnnamed()) return
    const bound = await this.forward(message('B', cstring(this.own(portal)), cstring(this.own(name)), rest))
    if (bound) this.portals.set(portal, this.statements.get(name))
  }

  async execute (body) {
    const [portal, rest] = splitStrings(body, 1)
    const statement = this.portals.get(portal)
    const renamed = message('E', cstring(this.own(portal)), rest)
    if (statement) this.note(statement.sql)
    if (!statement?.copy) return this.forward(renamed)
    const probed = await this.session.run(this.probe(statement.copy))
    const error = findMessage(probed, 'E')
    if (error) return this.reply(withoutPosition(error))
    const input = await this.receiveCopy(statement.copy, probed)
    return input.error ? this.failBatch(...input.error) : this.forward(renamed, input.data)
  }

  async describeOrClose (type, body) {
    const kind = body.toString('latin1', 0, 1)
    const [name] = splitStrings(body.subarray(1), 1)
    if (type === 'D' && kind === 'S' && name === '' && !await this.bringUnnamed()) return
    const done = await this.forward(message(type, cstring(kind + this.own(name))))
    if (done && type === 'C') (kind === 'S' ? this.statements : this.portals).delete(name)
  }

  /** The name that a statement or portal has in the session. The unnamed ones stay so. */
  own (name) {
    return name === '' ? '' : `c${this.id}_${name}`
  }

  /** Parses the unnamed statement again if another connection has replaced it; false if there is none, or no more. */
  async bringUnnamed () {
    if (this.session.unnamedOf === this) return true
    const unnamed = this.statements.get('')
    if (!unnamed) return this.failBatch('26000', 'unnamed prepared statement does not exist')
    this.session.unnamedOf = this
    const reply = await this.session.run(unnamed.parse)
    return !findMessage(reply, 'E') || this.reply(reply)
  }

  /** Runs one message of a batch and sends the answer; false if it is an error. */
  async forward (renamed, copyInput) {
    return this.reply(await this.session.run(renamed, copyInput))
  }

  // -- COPY FROM STDIN ------------------------------------------------------------------------------------------------

  /** Messages that find out, before data is asked for, whether there is such a table, and how wide it is. */
  probe (copy) {
    const name = this.own('copy probe')
    return Buffer.concat([parse(name, copy.probe), describeStatement(name), closeStatement(name)])
  }

  /** Asks for the data and collects it: { data: ArrayBuffer } or { error: [sqlstate, text] }. */
  async receiveCopy (copy, probed) {
    const format = copy.binary ? 1 : 0
    const columns = copy.columns ?? findMessage(probed, 'T').readInt16BE(5)
    this.write(message('G', Buffer.from([format]), int16(columns), ...Array(columns).fill(int16(format))))
    const chunks = []
    for (;;) {
      const next = await this.reader.next()
      switch (next?.type) {
        case 'd':
          chunks.push(next.body)
          break
        case 'c':
          return { data: join(chunks) }
        case 'f':
          return { error: ['57014', `COPY from stdin failed: ${splitStrings(next.body, 1)[0]}`] }
        case 'H': case 'S': // sent before the client knew that it is a COPY; to be ignored, says the protocol
          break
        case 'X': case undefined:
          throw new ProtocolViolation('unexpected EOF on client connection during COPY from stdin')
        default:
          return { error: ['08P01', `unexpected message type "${next.type}" during COPY from stdin`] }
      }
    }
  }

  // -- answers --------------------------------------------------------------------------------------------------------

  /** Takes note of what a statement may do to the settings. */
  note (sql) {
    if (changesSettings(sql)) this.settingsChanged = true
    if (resetsSettings(sql)) this.defaultsLost = true
  }

  /** Fails a simple query, and the transaction around it, with an error that is not PostgreSQL's. */
  async fail (sqlstate, text) {
    const reply = await this.session.run(query('!')) // a syntax error does to the transaction what is due
    return this.finish(Buffer.concat([errorResponse('ERROR', sqlstate, text), findMessage(reply, 'Z')]))
  }

  /** The same for a batch; returns false. */
  async failBatch (sqlstate, text) {
    await this.session.run(parse(this.own('failure'), '!'))
    return this.reply(errorResponse('ERROR', sqlstate, text))
  }

  /** Sends the answer to a query or a Sync, and passes the session on unless a transaction is open. */
  async finish (reply) {
    this.inBatch = this.skipping = false
    for (const { type, whole } of messagesIn(reply)) if (type === 'Z') this.status = String.fromCharCode(whole[5])
    if (this.defaultsLost && this.status !== 'E') {
      this.defaultsLost = false
      await this.session.restoreDefaults()
    }
    this.reply(reply)
    if (this.status !== 'I') return
    this.portals.clear()
    this.session.release(this)
  }

  /** Sends what PostgreSQL has answered; false if there is an error in it, which ends a batch. */
  reply (bytes) {
    let failed = false
    let noisy = false
    for (const sent of messagesIn(bytes)) {
      failed ||= sent.type === 'E'
      noisy ||= isNoise(sent)
    }
    const wanted = noisy ? [...messagesIn(bytes)].filter(sent => !isNoise(sent)).map(({ whole }) => whole) : [bytes]
    this.write(Buffer.concat(wanted))
    if (failed && this.inBatch) this.skipping = true
    return !failed
  }

  write (bytes) {
    if (bytes.length > 0 && this.socket.writable) this.socket.write(bytes)
  }

  complain (error) {
    process.stderr.write(`pglite: connection ${this.id}: ${error?.stack ?? error}\n`)
  }

  // -- the end --------------------------------------------------------------------------------------------------------

  /** Leaves no transaction, no statement and no settings behind. The session is released by the caller. */
  async cleanUp () {
    await this.session.take(this)
    const names = [...this.statements.keys()].filter(name => name !== '')
    // Sync alone would commit a batch that the client has left open. ROLLBACK without a transaction is but a warning.
    if (this.inBatch) await this.failBatch('57P01', 'the client has gone')
    await this.session.run(SYNC)
    await this.session.run(query('rollback'))
    await this.session.run(Buffer.concat([...names.map(name => closeStatement(this.own(name))), SYNC]))
    await this.session.forget(this)
  }
}

const COPY_NOT_ALONE = ['0A000', 'COPY FROM STDIN must be sent as a query of its own to this server']

/** The chunks in one ArrayBuffer, which can be handed over to the worker. */
function join (chunks) {
  const bytes = new Uint8Array(chunks.reduce((size, chunk) => size + chunk.length, 0))
  let at = 0
  for (const chunk of chunks) {
    bytes.set(chunk, at)
    at += chunk.length
  }
  return bytes.buffer
}

function startupParameters (body) {
  const parameters = new Map()
  for (let rest = body, name, value; rest.length > 1;) {
    [name, value, rest] = splitStrings(rest, 2)
    parameters.set(name, value)
  }
  return parameters
}

/** The settings among the startup parameters, and those in their `options`: -c name=value, --name=value. */
function startupSettings (parameters) {
  const settings = new Map()
  const options = (parameters.get('options') ?? '').matchAll(/(?:-c\s*|--)([\w.-]+)=((?:\\[^]|[^\s\\])*)/g)
  for (const [, name, value] of options) settings.set(name.replaceAll('-', '_'), value.replace(/\\([^])/g, '$1'))
  for (const [name, value] of parameters) {
    if (!['user', 'database', 'options'].includes(name) && !name.startsWith('_pq_.')) settings.set(name, value)
  }
  return settings
}
