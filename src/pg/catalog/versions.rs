//! Facts about PostgreSQL's versions, by `server_version_num / 10000`.

/// Sources that can be read, targets that can be written.
pub const SOURCE: std::ops::RangeInclusive<u32> = 13..=18;
pub const TARGET: std::ops::RangeInclusive<u32> = 15..=18;
/// Ranges of blocks are read without the rest of the table from 14 on (TID range scan).
pub const TID_RANGE_SCAN: u32 = 14;
/// `old_snapshot_threshold` was removed in 17.
pub const NO_OLD_SNAPSHOT_THRESHOLD: u32 = 17;
/// `pg_replication_slots` says why a slot was invalidated from 17 on.
pub const INVALIDATION_REASON: u32 = 17;
/// A source may invalidate a slot that nobody uses (`idle_replication_slot_timeout`) from 18 on.
pub const IDLE_SLOT_TIMEOUT: u32 = 18;
/// From 18 on updates of a table fail that has REPLICA IDENTITY FULL and generated columns which the publication leaves out.
pub const FULL_REFUSES_GENERATED: u32 = 18;
/// NOT NULL is a constraint with a name, constraints may be not enforced, and generated columns virtual, from 18 on.
pub const NOT_NULL_CONSTRAINTS: u32 = 18;
/// CREATE INDEX, ANALYZE and REFRESH MATERIALIZED VIEW run functions with a `search_path` of the catalog alone from 17 on.
pub const CATALOG_PATH_ALONE: u32 = 17;
/// Partitioned tables have identities, and tables a privilege MAINTAIN, from 17 on.
pub const PARTITIONED_IDENTITY: u32 = 17;
pub const MAINTAIN: u32 = 17;
/// Publications may publish generated columns from 18 on.
pub const PUBLISHES_GENERATED: u32 = 18;
/// Subscriptions know `origin`, `password_required`, `run_as_owner` and `streaming = parallel` from 16 on, `failover` from 17 on.
pub const SUBSCRIPTION_ORIGIN: u32 = 16;
pub const SUBSCRIPTION_FAILOVER: u32 = 17;
/// A membership says whether it inherits, and whether its member may `set role`, from 16 on.
pub const MEMBERSHIP_OPTIONS: u32 = 16;
/// Publications have whole schemas from 15 on.
pub const SCHEMAS_PUBLISHED: u32 = 15;
