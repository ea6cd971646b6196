//! What the demo application does: one entry for each kind of transaction.
//!
//! Placeholders: `{order}`, `{event}`, … the id of a row of this session (null if there is none); `{device}` one of its devices; `{n}` a
//! number below 10^9; `id {own}` is true for its rows.

/// Where a long transaction waits.
pub(super) const PAUSE: &str = "-- pause";

/// One kind of transaction.
#[derive(Debug)]
pub(super) struct Action {
    pub name: &'static str,
    /// How often, relative to the others.
    pub weight: u32,
    /// Only the first session does it.
    pub one_session: bool,
    /// Updates or deletes in a table without a replica identity.
    pub unidentified: bool,
    /// Statements without `begin` and `commit`.
    pub sql: &'static str,
}

const fn any(name: &'static str, weight: u32, sql: &'static str) -> Action {
    Action { name, weight, one_session: false, unidentified: false, sql }
}

const fn first(name: &'static str, weight: u32, sql: &'static str) -> Action {
    Action { one_session: true, ..any(name, weight, sql) }
}

const fn unidentified(name: &'static str, weight: u32, sql: &'static str) -> Action {
    Action { unidentified: true, ..any(name, weight, sql) }
}

#[rustfmt::skip]
pub(super) const ACTIONS: &[Action] = &[
    any("metrics", 30, "
        insert into public.metrics
        select clock_timestamp() - i * interval '1 second', {device}, 20 + random(), 50 + random(), 1013, 3.3, 100
        from generate_series(1, 20) i on conflict do nothing"),
    any("metric corrected", 10, "
        update public.metrics set temperature = temperature + 0.5, quality = 50
        where device_id = {device} and time = (select max(time) from public.metrics where device_id = {device})"),
    any("metric removed", 4, "
        delete from public.metrics
        where device_id = {device} and time = (select min(time) from public.metrics where device_id = {device})"),
    any("metric moved in time", 3, "
        update public.metrics set time = time - interval '10 days' - {n} * interval '1 microsecond'
        where device_id = {device} and time = (select max(time) from public.metrics where device_id = {device})"),
    any("device", 2, "update public.devices set active = not active, tags = tags || 'seen'::text where id = {device}"),

    any("event", 20, r#"
        insert into public.events (device_id, severity, kind, payload, note)
        values ({device}, 1 + {n} % 5, 'alarm', jsonb_build_object('n', {n}, 'who', '{"user": "demo"}'::jsonb), E'line\nbreak\t\\N')"#),
    any("event changed", 8, r#"
        update public.events set severity = 5, payload = payload || '{"seen": true}', note = null where id = {event}"#),
    any("event removed", 3, "delete from public.events where id = {event}"),

    any("reading", 10, "
        insert into public.readings_by_month
        select {device}, clock_timestamp() - i * interval '11 days', 1 + i, random() from generate_series(0, 3) i on conflict do nothing"),
    any("reading moved to another partition", 3, "
        update public.readings_by_month set at = at - interval '31 days' - {n} * interval '1 microsecond'
        where device_id = {device} and at = (select max(at) from public.readings_by_month where device_id = {device})"),
    any("reading removed", 2, "
        delete from public.readings_by_month
        where device_id = {device} and at = (select min(at) from public.readings_by_month where device_id = {device})"),

    // the large text stays where it is and is not in the stream
    any("document revised", 5, "update public.documents set revision = revision + 1 where id = {document}"),
    any("document written", 2, "
        update public.documents set body = (select string_agg(md5('{n}' || i), '') from generate_series(1, 1500) i) where id = {document}"),
    any("document", 1, "
        insert into public.documents (device_id, title, body) values ({device}, 'New {n}', repeat('{n}', 4000))"),

    any("order", 15, "
        with placed as (
            insert into shop.orders (customer_id, status, ship_to) values ({customer}, 'placed', ('Ring 1', 'Wien', '1010', 'AT')) returning id
        )
        insert into shop.order_items (order_id, line, sku, quantity, unit_price)
        select placed.id, row_number() over (), p.sku, 1 + {n} % 3, p.price
        from placed, (select sku, price from shop.products order by md5(sku || '{n}') limit 3) p;
        select nextval('shop.invoice_number')"),
    any("order shipped", 12, "update shop.orders set status = 'shipped', delivery_time = interval '1 mon -2 days 03:00' where id = {order}"),
    any("order removed with its items", 3, "delete from shop.orders where id = {order}"),
    any("item", 5, "
        update shop.order_items i set quantity = quantity + 1
        where order_id = {order} and line = (select min(line) from shop.order_items where order_id = i.order_id)"),
    any("item keys changed", 2, "update shop.order_items set line = 100 - line where order_id = {order}"),
    any("item replaced under its key", 2, "
        do $$
        declare
            old_item shop.order_items;
        begin
            delete from shop.order_items where (order_id, line) = (
                select order_id, line from shop.order_items where order_id = {order} order by line limit 1
            ) returning * into old_item;
            if found then
                insert into shop.order_items (order_id, line, sku, quantity, unit_price)
                values (old_item.order_id, old_item.line, old_item.sku, 7, 9.99);
            end if;
        end
        $$"),

    any("customer", 2, "
        insert into shop.customers (email, name, phones, addresses)
        values ('guest-' || gen_random_uuid() || '@example.com', 'O''Hara {n}', array[null, '+43 1'], array[row('a', 'b', null, 'AT')::shop.address])"),
    any("customer changed", 4, "update shop.customers set preferences = '{\"n\": {n}}', credit = credit + 1::money where id = {customer}"),
    any("customer left as it was", 1, "update shop.customers set name = name where id = {customer}"),
    any("guest removed", 1, "
        delete from shop.customers c
        where email like 'guest-%' and id {own} and not exists (select from shop.orders o where o.customer_id = c.id)"),
    any("recommendation", 2, "update shop.recommendations set score = score / 2 where customer_id {own} and score > {n} / 1e9"),
    first("recommendations made again", 1, "
        truncate shop.recommendations;
        insert into shop.recommendations select c, 'SKU-00001', random() from generate_series(1, 50) c"),
    first("setting", 2, "update public.settings set value = to_jsonb({n}), changed_at = clock_timestamp() where key = 'theme'"),

    any("note", 2, r#"
        insert into "Odd Names"."Order Notes" ("Order", "say ""hi""", "größe.in %") values ({order}, 'no. {n}; "quoted"', {n} / 7.0)"#),
    any("note key changed", 2, r#"
        update "Odd Names"."Order Notes" set "Note Id" = "Note Id" + case when "Note Id" < 1000000 then 1000000 else -1000000 end * {sessions}
        where "Note Id" = {note}"#),
    any("log line", 1, r#"insert into "Odd Names"."import log" (line) values ('same line'), ('same line')"#),
    any("session", 3, "insert into shop.sessions (token, customer_id) values (gen_random_uuid(), {customer})"),
    any("ticket", 1, "select nextval('public.ticket')"),

    any("savepoint rolled back", 4, "
        insert into public.events (device_id, kind) values ({device}, 'kept');
        savepoint a;
        delete from shop.order_items where order_id = {order};
        insert into public.events (device_id, kind) values ({device}, 'undone');
        savepoint b;
        update public.devices set model = 'undone' where id = {device};
        rollback to a;
        insert into public.events (device_id, kind) values ({device}, 'kept, too');
        release a"),
    any("long transaction", 1, "
        insert into public.events (device_id, kind) values ({device}, 'long begins');
        update shop.orders set note = 'in work' where id = {order};
        -- pause
        insert into public.events (device_id, kind) values ({device}, 'long ends');
        update shop.orders set note = null where id = {order}"),
    any("big transaction", 1, "
        insert into public.metrics
        select clock_timestamp() - i * interval '17 seconds', {device}, i, null, 'NaN', 'infinity', null
        from generate_series(1, 3000) i on conflict do nothing;
        update shop.orders set note = 'batch {n}' where id {own} and id % 40 < {sessions};
        delete from public.metrics where device_id = {device} and time < now() - interval '59 days'"),

    unidentified("session seen", 3, "
        update shop.sessions set last_seen_at = clock_timestamp()
        where token = (select token from shop.sessions where customer_id {own} order by last_seen_at limit 1)"),
    unidentified("session ended", 1, "
        delete from shop.sessions where token = (select token from shop.sessions where customer_id {own} order by last_seen_at limit 1)"),
    unidentified("old log removed", 1, "
        delete from shop.audit_log where at = (select min(at) from shop.audit_log)"),
    unidentified("one of two equal lines removed", 1, r#"
        delete from "Odd Names"."import log" where ctid = (select ctid from "Odd Names"."import log" limit 1)"#),
];
