//! What the benchmarks share: two servers, the data, what work costs, and the report.
#![allow(dead_code, reason = "each benchmark uses its own part")]

pub mod cluster;
pub mod data;
pub mod measure;
pub mod report;
