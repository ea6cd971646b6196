-- Columns of tables, and how their values are compared. Parameter: $1 OIDs of the tables.
--
-- The questions are those of the type cache (PostgreSQL's utils/cache/typcache.c): an array has an operator for equality, and so has a row,
-- but it fails for elements that have none.
with recursive used (oid) as materialized (
    select distinct atttypid from pg_attribute where attrelid = any($1) and attnum > 0 and not attisdropped),
-- a type, and its base type, below domains of any depth
base (type, oid) as (
    select oid, oid from used
    union all select b.type, t.typbasetype from base b join pg_type t on t.oid = b.oid where t.typtype = 'd'),
-- a type, and the types of which its values are made
part (type, oid) as (
    select oid, oid from used
    union
    select p.type, m.oid
      from part p join pg_type t on t.oid = p.oid
     cross join lateral (
           select t.typbasetype as oid where t.typtype = 'd'
           union all select e.oid from pg_type e where e.oid = t.typelem and e.typarray = t.oid
           union all select atttypid from pg_attribute where t.typtype = 'c' and attrelid = t.typrelid and attnum > 0 and not attisdropped) m),
-- the default operator class by which values of a type are equal: one of the type itself, or of one that it is without conversion
default_class (type, family, input) as materialized (
    select distinct on (t.oid) t.oid, o.opcfamily, o.opcintype
      from pg_type t
      join pg_opclass o on o.opcdefault and (o.opcintype = t.oid
           or o.opcintype = 'anyarray'::regtype and exists (select from pg_type e where e.oid = t.typelem and e.typarray = t.oid)
           or o.opcintype = case t.typtype when 'e' then 'anyenum'::regtype when 'c' then 'record'::regtype when 'r' then 'anyrange'::regtype
                                           when 'm' then 'anymultirange'::regtype end
           or exists (select from pg_cast c where c.castsource = t.oid and c.casttarget = o.opcintype and c.castmethod = 'b' and c.castcontext = 'i'))
      join pg_am m on m.oid = o.opcmethod and m.amname in ('btree', 'hash')
      join pg_type i on i.oid = o.opcintype
     where t.oid in (select oid from part)
     -- A hash operator class is enough to compare elements, but an operator is taken from a B-tree.
     order by t.oid, m.amname, o.opcintype = t.oid desc, i.typispreferred desc),
-- types with a part that has no equality
incomparable (type) as materialized (
    select distinct p.type from part p join pg_type t on t.oid = p.oid
     where t.typtype <> 'd' and not exists (select from default_class d where d.type = p.oid)),
-- the operator class of a key; rows are found by that of the replica identity
key_class (relation, attnum, family, input) as materialized (
    select distinct on (x.indrelid, k.attnum) x.indrelid, k.attnum, o.opcfamily, o.opcintype
      from pg_index x
     cross join unnest((x.indkey::int2[])[0:x.indnkeyatts - 1], x.indclass::oid[]) k (attnum, class)
      join pg_opclass o on o.oid = k.class
     where x.indrelid = any($1) and (x.indisreplident or x.indisprimary)
     order by x.indrelid, k.attnum, x.indisreplident desc),
equality (family, input, operator) as materialized (
    select s.amopfamily, s.amoplefttype, format('operator(%I.%s)', n.nspname, p.oprname)
      from pg_amop s join pg_operator p on p.oid = s.amopopr join pg_namespace n on n.oid = p.oprnamespace
     where s.amopmethod = (select oid from pg_am where amname = 'btree') and s.amopstrategy = 3 and s.amoplefttype = s.amoprighttype)
select a.attrelid as oid, a.attname::text as name, format_type(a.atttypid, a.atttypmod) as data_type,
       format('%I.%I', bn.nspname, b.typname) as base_type, e.operator,
       -- Operators of arrays, enums, rows and ranges take any type of their kind.
       case when i.typtype <> 'p' then format('%I.%I', inp.nspname, i.typname) end as input_type,
       a.atttypid = case when i.typtype <> 'p' then i.oid else b.oid end as is_input,
       a.atttypid not in (select type from incomparable) as comparable,
       coalesce((select not collisdeterministic from pg_collation where oid = a.attcollation), false) as loose
  from pg_attribute a
  join base on base.type = a.atttypid
  join pg_type b on b.oid = base.oid and b.typtype <> 'd'
  join pg_namespace bn on bn.oid = b.typnamespace
  -- An index finds rows by its own operator only, so that of the key comes first.
  left join key_class k on k.relation = a.attrelid and k.attnum = a.attnum
  left join default_class d on d.type = b.oid
  left join equality e on e.family = coalesce(k.family, d.family) and e.input = coalesce(k.input, d.input)
  left join pg_type i on i.oid = e.input
  left join pg_namespace inp on inp.oid = i.typnamespace
 where a.attrelid = any($1) and a.attnum > 0 and not a.attisdropped
