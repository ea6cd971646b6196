//! How far each lane has applied the stream.

use crate::{
    error::{Error, Result},
    lsn::Position,
    pg::{client::Client, wire::Wire},
};

/// How far a lane has applied the stream.
pub async fn lane_position(wire: &mut Wire, lane: u32) -> Result<Position> {
    let rows = wire.simple(&format!("select lsn::text, change::text from _hyperlift.lane where lane = {lane}")).await?;
    let Some([Some(lsn), Some(change)]) = rows.first().map(Vec::as_slice) else {
        return Err(Error::failed(format!("the target has no position of lane {lane}"))
            .hint("was schema _hyperlift changed? Run `hyperlift clean` and start again"));
    };
    let change = change.parse().map_err(|_| Error::failed(format!("the target has no readable position of lane {lane}: {change}")))?;
    Ok(Position { lsn: lsn.parse()?, change })
}

/// The statement that moves the position of a lane, for the transaction that applies what is between. It changes one row, or another
/// session has moved it.
pub fn advance_lane(lane: u32, from: Position, to: Position) -> String {
    format!(
        "update _hyperlift.lane set lsn = '{}', change = {}, at = now() where lane = {lane} and lsn = '{}' and change = {}",
        to.lsn, to.change, from.lsn, from.change
    )
}

/// The positions of the ordinary lanes.
pub async fn lane_positions(client: &Client) -> Result<Vec<Position>> {
    let sql = "select lsn::text as lsn, change from _hyperlift.lane where lane < (select lanes from _hyperlift.migration) order by lane";
    client.query(sql, &[]).await?.iter().map(position).collect()
}

/// The position of a side lane: its relations are owed everything from there on that their copies did not see.
pub async fn side_position(client: &Client, lane: u32) -> Result<Position> {
    position(&client.query_one("select lsn::text as lsn, change from _hyperlift.lane where lane = $1", &[&(lane as i32)]).await?)
}

fn position(r: &tokio_postgres::Row) -> Result<Position> {
    Ok(Position { lsn: r.get::<_, &str>("lsn").parse()?, change: r.get::<_, i64>("change") as u64 })
}
