//! Documents made of the state.

pub mod summary;

pub use summary::exit_summary;
