//! Functions, aggregates and procedures.

use std::fmt;

use crate::{
    error::Result,
    name::plain_ident,
    pg::{client::Client, own::USER_SCHEMAS},
};

/// A function by its name and the types of its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    /// As `oidvectortypes` prints them.
    pub arguments: String,
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}({})", plain_ident(&self.schema), plain_ident(&self.name), self.arguments)
    }
}

/// Those of the application.
pub async fn functions(client: &Client) -> Result<Vec<Function>> {
    let of_no_extension = "not exists (select from pg_depend d where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')";
    functions_where(client, &format!("{USER_SCHEMAS} and {of_no_extension}")).await
}

/// Those of an extension that are in its own schema.
pub async fn functions_of_extension(client: &Client, extension: &str) -> Result<Vec<Function>> {
    let of_the_extension = format!(
        "exists (select from pg_extension e
                   join pg_depend d on d.refclassid = 'pg_extension'::regclass and d.refobjid = e.oid and d.deptype = 'e'
                  where e.extname = {} and e.extnamespace = n.oid and d.classid = 'pg_proc'::regclass and d.objid = p.oid)",
        crate::name::literal(extension)
    );
    functions_where(client, &of_the_extension).await
}

async fn functions_where(client: &Client, condition: &str) -> Result<Vec<Function>> {
    let sql = format!(
        "select p.oid, n.nspname::text as schema, p.proname::text as name, oidvectortypes(p.proargtypes) as arguments
           from pg_proc p join pg_namespace n on n.oid = p.pronamespace
          where {condition} order by 2, 3, 4"
    );
    let function =
        |r: &tokio_postgres::Row| Function { oid: r.get("oid"), schema: r.get("schema"), name: r.get("name"), arguments: r.get("arguments") };
    Ok(client.query(&sql, &[]).await?.iter().map(function).collect())
}
