//! ANALYZE, indexes and keys of a relation, as soon as it is copied: several at the same time, also on one table.
//!
//! A small relation is one transaction with all its statements. The statements of larger relations are a queue, from the largest relation
//! to the smallest, in the waves of [`plan`]. A statement that fails waits for the operator while the others go on. ANALYZE cannot run on
//! a table at the same time as CREATE INDEX. It runs first, because at the end of the last table no other work would overlap it; but it
//! runs after indexes on expressions, because it gathers statistics for them.

mod builders;
mod plan;
mod progress;
mod work;

pub use self::{
    builders::{IndexJob, build},
    plan::identity_first,
    work::settings,
};
