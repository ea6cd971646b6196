//! What the screens are built from.

pub mod band;
pub mod chart;
pub mod header;
pub mod text;
