//! Schema `_hyperlift` on the target: what was done there, recorded in the transaction that did it (I2).
//!
//! All statements on its tables are here. Those that run in somebody else's transaction are returned as text.

mod ddl;
mod joining;
mod lanes;
mod parts;
mod relations;
mod schema;
mod steps;

pub use self::{ddl::*, joining::*, lanes::*, parts::*, relations::*, schema::*, steps::*};
