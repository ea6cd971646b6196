//! Noticing that some definition has changed, without a dump.

use super::versions;
use crate::{
    error::Result,
    name::literal,
    pg::{
        client::{Client, value},
        own::OWN_PUBLICATION,
    },
};

/// The state of all catalogs that a dump of the schema reads: how many rows each has, and the sum of the transactions that wrote them. Every
/// changed definition changes it. ANALYZE and VACUUM do not, because they write in place, nor do TRUNCATE, temporary tables and hyperlift's own
/// publications.
pub async fn schema_state(client: &Client) -> Result<String> {
    const CATALOGS: &[&str] = &[
        "aggregate", "am", "amop", "amproc", "cast", "collation", "conversion", "default_acl", "enum", "event_trigger", "extension",
        "foreign_data_wrapper", "foreign_server", "foreign_table", "inherits", "init_privs", "language", "opclass", "operator", "opfamily",
        "partitioned_table", "policy", "proc", "range", "rewrite", "seclabel", "statistic_ext", "transform", "trigger", "ts_config", "ts_config_map",
        "ts_dict", "ts_parser", "ts_template",
    ];
    // Temporary tables come and go all the time: these catalogs are read without theirs.
    const OF_RELATIONS: &[(&str, &str)] =
        &[("attribute", "attrelid"), ("attrdef", "adrelid"), ("index", "indrelid"), ("constraint", "conrelid"), ("sequence", "seqrelid")];
    let one = |name: &&str| format!("select '{name}' as name, count(*) as rows, sum(xmin::text::bigint)::text as sum from pg_{name}");
    let of_relation = |(name, relation): &(&str, &str)| format!("{} where {relation} not in (select oid from temporary)", one(name));
    let catalogs: Vec<String> = CATALOGS.iter().map(one).chain(OF_RELATIONS.iter().map(of_relation)).collect();
    let schemas =
        if client.version() / 10_000 >= versions::SCHEMAS_PUBLISHED { "union all select pnpubid, xmin from pg_publication_namespace" } else { "" };
    let own = literal(OWN_PUBLICATION);
    let sql = format!(
        "with temporary as materialized (select oid from pg_class where relpersistence = 't'),
              temporary_types as materialized (select t.oid from pg_type t join pg_namespace n on n.oid = t.typnamespace where n.nspname ~ '^pg_(toast_)?temp_')
         select string_agg(format('%s %s %s', name, rows, sum), ',' order by name) from ({}
         union all select 'class', count(*), sum(hashtextextended(row(oid, relname, relnamespace, relowner, relam, relpersistence, relkind, relnatts,
                          relchecks, relrowsecurity, relforcerowsecurity, relreplident, relispartition, relacl, reloptions, relpartbound)::text, 0))::text
                     from pg_class where relpersistence <> 't'
         union all select 'namespace', count(*), sum(xmin::text::bigint)::text from pg_namespace where nspname !~ '^pg_(toast_)?temp_'
         union all select 'type', count(*), sum(xmin::text::bigint)::text from pg_type where oid not in (select oid from temporary_types)
         union all select 'depend', count(*), sum(xmin::text::bigint)::text from pg_depend
                    where classid not in ('pg_publication'::regclass, 'pg_publication_rel'::regclass)
                      and objid not in (select oid from temporary union all select oid from temporary_types)
                      and refobjid not in (select oid from temporary union all select oid from temporary_types)
         union all select 'description', count(*), sum(xmin::text::bigint)::text from pg_description
                    where classoid <> 'pg_publication'::regclass or description <> {own}
         union all select 'publication', count(*), sum(o.xmin::text::bigint)::text
                     from (select oid, xmin from pg_publication union all select prpubid, xmin from pg_publication_rel {schemas}) o
                     join pg_publication p on p.oid = o.oid where obj_description(p.oid, 'pg_publication') is distinct from {own}
         union all select 'subscription', count(*), md5(string_agg(format('%s %s %s', subname, subslotname, subpublications), ',' order by oid))
                     from pg_subscription
         union all select 'user_mappings', count(*), md5(string_agg(m::text, ',' order by umid)) from pg_user_mappings m
         union all select 'roles', count(*), md5(string_agg(rolname, ',' order by oid)) from pg_roles) t",
        catalogs.join(" union all ")
    );
    value(client, &sql).await
}
