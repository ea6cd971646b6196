// PGlite's one session: whose turn it is, and whose settings are in force.

import { literal } from './sql.mjs'
import { findMessage, messagesIn, query, textRow } from './wire.mjs'

/** What RESET goes back to is PGlite's command line, which differs in these from any other PostgreSQL. */
const DEFAULTS = new Map([
  ['search_path', '"$user", public'],
  ['client_min_messages', 'notice'],
  ['enable_seqscan', 'on']
])

/** The settings of which a server tells its clients (ParameterStatus). */
const REPORTED = ['server_version', 'server_encoding', 'client_encoding', 'application_name', 'DateStyle', 'IntervalStyle',
  'TimeZone', 'integer_datetimes', 'standard_conforming_strings', 'is_superuser',
  'default_transaction_read_only', 'in_hot_standby']

const setConfig = ([name, value]) => `set_config(${literal(name)}, ${literal(value)}, false)`

// PGlite has no user that RESET SESSION AUTHORIZATION goes back to.
const RESET_ALL = 'set session authorization postgres; reset role; reset all'
const RESTORE_DEFAULTS = `
  select set_config(d.name, d.value, false)
  from (values ${[...DEFAULTS].map(pair => `(${pair.map(literal).join(', ')})`).join(', ')}) as d (name, value)
  join pg_catalog.pg_settings as s using (name)
  where s.source <> 'session';
  select set_config('session_authorization', 'postgres', false)
  where current_setting('session_authorization') = '' and session_user <> 'postgres'`
// The user and the role are not in pg_settings; they come last, after what only a superuser may set.
const CURRENT_SETTINGS = `
  select name, setting from (
    select 1, name, setting from pg_catalog.pg_settings where source = 'session'
    union all select 2, 'session_authorization', current_setting('session_authorization')
    union all select 3, 'role', current_setting('role')
  ) as s (rank, name, setting)
  where rank = 1 or setting not in ('', 'none', 'postgres')
  order by rank`

/** Lent in the order of asking, to each connection with its own settings. */
export class Session {
  constructor (engine) {
    this.engine = engine
    this.connections = new Set() // those that may leave something behind
    this.owner = null // the connection that has it now
    this.queue = []
    this.tenant = null // the connection whose settings are in force
    this.pristine = false // are only the defaults in force?
    this.unnamedOf = null // the connection whose unnamed statement PostgreSQL holds
    this.reported = [['session_authorization', 'postgres']] // what a new connection is told; PGlite has no other user
  }

  /** Must have run before the first connection. */
  async open () {
    for (const name of REPORTED) {
      const row = findMessage(await this.run(query(`show ${name}`)), 'D')
      if (row) this.reported.push([name, textRow(row)[0]])
    }
    this.pid = Number(textRow(findMessage(await this.run(query('select pg_backend_pid()')), 'D'))[0])
  }

  run (messages, copyInput) {
    return this.engine.run(messages, copyInput)
  }

  async take (connection) {
    if (this.owner === connection) return
    if (this.owner) await new Promise(resolve => this.queue.push({ connection, resolve }))
    else this.owner = connection
    if (this.tenant !== connection) await this.moveIn(connection)
  }

  release (connection) {
    if (this.owner !== connection) return
    const next = this.queue.shift()
    this.owner = next?.connection ?? null
    next?.resolve()
  }

  async moveIn (connection) {
    const former = this.tenant
    if (former?.settingsChanged) {
      former.settings = await this.currentSettings()
      former.settingsChanged = this.pristine = false
    }
    this.tenant = connection
    if (this.pristine && connection.settings.size === 0) return
    await this.run(query(RESET_ALL))
    await this.apply(connection.settings)
    this.pristine = connection.settings.size === 0
  }

  async currentSettings () {
    const rows = [...messagesIn(await this.run(query(CURRENT_SETTINGS)))].filter(({ type }) => type === 'D')
    return new Map(rows.map(({ whole }) => textRow(whole)).filter(([name, value]) => DEFAULTS.get(name) !== value))
  }

  /** Puts the defaults and `settings` in force, and drops from `settings` what the server does not accept. */
  async apply (settings) {
    const all = [...new Map([...DEFAULTS, ...settings])]
    if (!findMessage(await this.run(query(`select ${all.map(setConfig).join(', ')}`)), 'E')) return
    for (const pair of all) {
      if (findMessage(await this.run(query(`select ${setConfig(pair)}`)), 'E')) settings.delete(pair[0])
    }
  }

  /** For after a RESET: brings the defaults back that are not PGlite's. */
  async restoreDefaults () {
    await this.run(query(RESTORE_DEFAULTS))
  }

  /** `connection`, which holds the session, has ended: forgets it, and after the last one all that was shared. */
  async forget (connection) {
    this.connections.delete(connection)
    this.tenant = null
    if (this.unnamedOf === connection) this.unnamedOf = null
    if (connection.settingsChanged) this.pristine = false
    if (this.connections.size > 0) return
    await this.run(query('discard all'))
    this.pristine = false
  }
}
