// Reading SQL, as far as it takes to recognize the few statements that need more than to be passed on.

// Comments and quoted text. A doubled quote reads as two texts side by side, which is enough here.
const COMMENT = String.raw`--[^\n]*|/\*[^]*?\*/`
const QUOTED = String.raw`\be'(?:[^'\\]+|\\[^])*'|'[^']*'|"[^"]*"|(?<![\w$])\$(?<tag>(?:[a-z_]\w*)?)\$[^]*?\$\k<tag>\$`
const OPAQUE = new RegExp(`${COMMENT}|${QUOTED}`, 'gi')

/** `sql` at its length, with blanks for its comments and x for what it quotes. */
function outline (sql) {
  return sql.replace(OPAQUE, text => (/^(?:--|\/)/.test(text) ? ' ' : 'x').repeat(text.length))
}

const TARGET = String.raw`(?<table>[^(;\s][^(;]*?)\s*(?:\((?<columns>[^)]*)\)\s*)?`
const COPY_FROM_STDIN =
  new RegExp(String.raw`^\s*copy\s+(?<binary>binary\s+)?(?<target>${TARGET})\bfrom\s+std(?:in|out)\b`, 'di')
const BINARY_OPTION = /^\s*(?:with\s+)?binary\b|\bformat\s+['"]?binary\b/i

/**
 * Null unless `sql` holds a COPY .. FROM STDIN, which PGlite does not survive. Otherwise `alone` says whether that is its
 * only statement, `sql` is the same reading from /dev/blob, `columns` the length of its column list, if it has one, and
 * `probe` a query that fails where there is no such table.
 */
export function copyFromStdin (sql) {
  if (!/\bcopy\b/i.test(sql) || !/\bstd(?:in|out)\b/i.test(sql)) return null
  const bare = outline(sql)
  const statements = bare.split(';').filter(statement => statement.trim() !== '')
  if (!statements.some(statement => COPY_FROM_STDIN.test(statement))) return null
  const match = COPY_FROM_STDIN.exec(bare)
  if (!match || statements.length > 1) return { alone: false }
  const { binary, table, columns, target } = match.indices.groups
  const options = sql.slice(match[0].length)
  return {
    alone: true,
    binary: Boolean(binary) || BINARY_OPTION.test(options),
    columns: columns && bare.slice(...columns).split(',').length,
    probe: `select * from ${sql.slice(...table)}`,
    sql: `copy ${binary ? 'binary ' : ''}${sql.slice(...target)}\nfrom '/dev/blob'${options}`
  }
}

const STATEMENT_START = String.raw`(?:^|[;\n]|\*/)\s*`
const CHANGES = new RegExp(String.raw`\bset_config\b|_restore\s*\(|${STATEMENT_START}(?:set|reset|discard|do|call)\b`, 'i')
const RESETS = new RegExp(String.raw`${STATEMENT_START}(?:reset|discard|set\b[^;]*\bdefault)\b`, 'i')

/** May `sql` change the session's settings? A wrong yes costs one query. */
export const changesSettings = sql => CHANGES.test(sql)

/** May `sql` put settings back to their defaults? */
export const resetsSettings = sql => RESETS.test(sql)

export const literal = text => `'${text.replaceAll("'", "''")}'`
