#!/usr/bin/env node
// A PostgreSQL server for tests and demos: PGlite (PostgreSQL as WebAssembly) with TimescaleDB, behind the wire protocol.
//
//   node server.mjs --port N [--datadir DIR] [--extension]
//
// Listens on 127.0.0.1:N (0 picks a free port) and prints one line, `listening PORT`, when it takes connections.
// Without --datadir everything is kept in memory. --extension creates the extension timescaledb at the start.
// Exit codes: 0 after SIGTERM, SIGINT or the end of stdin (so it dies with the process that holds the other end of
// that pipe), 1 when it cannot start, 2 for a wrong command line, 9 when PGlite itself has died.
//
// PGlite has ONE session. It is lent to one connection from that connection's first message until ReadyForQuery says
// 'I' (idle); the others wait their turn, so a client must not need two open transactions at once.
// Kept per connection: settings (start-up options too), prepared statements that came by message, portals.
// Shared by all: temporary tables, advisory locks, LISTEN, SQL's PREPARE; dropped when the last connection ends.
// COPY FROM STDIN is collected whole and read from /dev/blob, for which PostgreSQL wants a superuser.
//
//   socket -> wire.mjs (messages) -> connection.mjs (one per client) -> session.mjs (turns, settings)
//                                                                    -> engine.mjs (PGlite, in a worker thread)

import net from 'node:net'
import { parseArgs } from 'node:util'
import { Connection } from './connection.mjs'
import { Engine } from './engine.mjs'
import { Session } from './session.mjs'
import { findMessage, query } from './wire.mjs'

/** How long a clean shutdown may take: a statement that is running keeps PGlite from it. */
const SHUTDOWN_MS = 2000

function commandLine () {
  try {
    const { values } = parseArgs({
      options: { port: { type: 'string' }, datadir: { type: 'string' }, extension: { type: 'boolean' } }
    })
    const port = Number(values.port)
    if (!/^\d+$/.test(values.port ?? '') || port > 65535) throw new Error('--port takes a number from 0 to 65535')
    return { port, dataDir: values.datadir, extension: values.extension }
  } catch (error) {
    exit(2, `${error.message}\nusage: node server.mjs --port N [--datadir DIR] [--extension]`)
  }
}

function exit (code, reason) {
  if (reason) process.stderr.write(`pglite: ${reason}\n`)
  process.exit(code)
}

const { port, dataDir, extension } = commandLine()
let engine = null // once it runs
let stopping = false

function stop () {
  if (stopping) return
  stopping = true
  if (!dataDir || !engine) exit(0)
  setTimeout(exit, SHUTDOWN_MS, 0)
  engine.close().then(() => exit(0)) // saves the next start a recovery
}

process.on('SIGTERM', stop).on('SIGINT', stop)
process.stdin.on('end', stop).on('close', stop).on('error', stop).resume()

const starting = new Engine(dataDir, reason => engine ? exit(9, `PGlite has died: ${reason}`) : exit(1, reason))
await starting.started()
engine = starting
if (extension) {
  const error = findMessage(await engine.run(query('create extension if not exists timescaledb')), 'E')
  if (error) exit(1, `create extension timescaledb: ${error.toString('utf8', 5).replaceAll('\0', ' ')}`)
}
const session = new Session(engine)
await session.open()

const server = net.createServer({ allowHalfOpen: true, noDelay: true }, socket => new Connection(socket, session).serve())
server.on('error', error => exit(1, error.message))
server.listen(port, '127.0.0.1', () => process.stdout.write(`listening ${server.address().port}\n`))
