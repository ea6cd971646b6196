//! Everything that speaks to PostgreSQL. Returns values; knows no events, stages or screens.
