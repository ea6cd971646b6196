//! The data of a small IoT database: the same on every run.

use hyperlift::{demo::execute, error::Result};

/// The size of the data; 1 is the full size.
#[derive(Clone, Copy, Debug)]
pub struct Scale(pub f64);

impl Scale {
    /// This share of a number, at least 1.
    pub fn of(self, full: u32) -> u64 {
        ((f64::from(full) * self.0) as u64).max(1)
    }
}

/// Keys, indexes and foreign keys of the IoT data.
pub const IOT_INDEXES: &str = include_str!("sql/index.sql");
/// Each device reports its metrics this often, seconds.
pub const STEP_SECONDS: u64 = 15 * 60;

/// The number of reports of each device.
pub fn iot_steps(scale: Scale) -> u64 {
    scale.of(1000).max(2)
}

/// 10 M metrics, 1 M events, 150 000 orders, 50 small tables, at scale 1; only the devices and the small tables have indexes.
pub async fn iot(uri: &str, scale: Scale, step_seconds: u64) -> Result<()> {
    execute(uri, include_str!("sql/schema.sql")).await?;
    execute(uri, &part("devices", scale, (0, 0), 0)).await?;
    metrics(uri, scale, step_seconds).await?;
    let (events, orders) = (part("events", scale, (0, 0), 0), part("orders", scale, (0, 0), 0));
    tokio::try_join!(execute(uri, &events), execute(uri, &orders))?;
    execute(uri, &part("small tables", scale, (0, 0), 0)).await
}

/// The largest table alone. Its rows are in the order of their time, but two sessions write them, a half each.
pub async fn metrics(uri: &str, scale: Scale, step_seconds: u64) -> Result<()> {
    let steps = iot_steps(scale);
    let (older, newer) = (part("metrics", scale, (0, steps / 2 - 1), step_seconds), part("metrics", scale, (steps / 2, steps - 1), step_seconds));
    tokio::try_join!(execute(uri, &older), execute(uri, &newer)).map(drop)
}

/// The table of the metrics.
pub fn metrics_schema() -> &'static str {
    let schema = include_str!("sql/schema.sql");
    schema.split_inclusive(";\n").find(|s| s.starts_with("CREATE TABLE metrics")).unwrap_or_default()
}

fn part(name: &str, scale: Scale, (from, to): (u64, u64), step_seconds: u64) -> String {
    let sql = include_str!("sql/iot_data.sql");
    let part = sql.split("-- ").find_map(|part| part.strip_prefix(name)?.strip_prefix('\n')).unwrap_or_default();
    let numbers = [(":from", from), (":to", to), (":step", step_seconds), (":events", scale.of(1_000_000)), (":orders", scale.of(150_000))];
    let filled = numbers.iter().fold(part.to_owned(), |sql, (name, number)| sql.replace(name, &number.to_string()));
    format!("set local synchronous_commit = off; set local jit = off; {filled}")
}
