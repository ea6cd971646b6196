-- From the smallest to the greatest value of each time or integer column, by the planner's statistics.
-- Parameters: $1 OIDs of tables, $2 OIDs of the partition roots among them, whose leaves have the statistics.
with tables as (
    select oid, oid as root from unnest($1::oid[]) as o(oid)
     union all select t.relid, r.root from unnest($2::oid[]) as r(root) cross join lateral pg_partition_tree(r.root) t where t.isleaf),
-- What is not of these types must not be read as a number.
bounds as materialized (
    select tables.root as oid, s.attname::text as name, a.atttypid as type,
           array_remove(array_remove(s.histogram_bounds::text::text[], 'infinity'), '-infinity') as list
      from tables join pg_class c on c.oid = tables.oid
      join pg_namespace n on n.oid = c.relnamespace
      join pg_stats s on s.schemaname = n.nspname and s.tablename = c.relname and s.histogram_bounds is not null
      join pg_attribute a on a.attrelid = c.oid and a.attname = s.attname
     where a.atttypid = any('{int2, int4, int8, date, timestamp, timestamptz}'::regtype[])),
ends as (
    select oid, name, (case type
               when 'timestamptz'::regtype then extract(epoch from e::timestamptz)
               when 'timestamp'::regtype then extract(epoch from e::timestamp)
               when 'date'::regtype then extract(epoch from e::date::timestamp)
               else e::numeric end)::float8 as value
      from bounds cross join unnest(array[list[1], list[cardinality(list)]]) as e)
select oid, name, max(value) - min(value) as span from ends where value is not null group by oid, name
