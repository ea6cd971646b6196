//! The demo database: an IoT and shop schema with a bit of everything, and rows for it.

use super::connect;
use crate::error::{Error, Result};

const SCHEMA: &str = include_str!("../../assets/demo/schema.sql");
const DATA: &str = include_str!("../../assets/demo/data.sql");

/// How many rows: 1.0 is about 400 000 rows (70 MB), most of them in `public.metrics`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Size(pub f64);

impl Size {
    /// For people to watch.
    pub const DEMO: Self = Self(1.0);
    /// No table above 80 000 rows: PGlite holds each COPY in memory.
    pub const PGLITE: Self = Self(0.4);
    /// For tests: a second to load.
    pub const TINY: Self = Self(0.02);
}

/// Creates the schema in an empty database and fills it.
pub async fn load(uri: &str, size: Size) -> Result<()> {
    let client = connect(uri).await?;
    client.batch_execute(SCHEMA).await.map_err(|e| Error::from(e).context("demo schema"))?;
    client.batch_execute(&format!("set hyperlift_demo.scale = '{}'", size.0)).await?;
    client.batch_execute(DATA).await.map_err(|e| Error::from(e).context("demo data"))?;
    client.batch_execute("vacuum analyze").await?;
    Ok(())
}
