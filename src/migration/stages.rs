//! The nine stages, a file each.

pub mod preflight;

pub mod identity;

pub mod schema;

pub mod hypertables;

pub mod copy;

pub mod catch_up;

pub mod verify;

pub mod cutover;

pub mod done;
