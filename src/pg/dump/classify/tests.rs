use super::*;
use crate::plan::Hypertable;

const TARGET: Target = Target { major: 18, timescale: true };

fn plan(key: KeyChoice) -> Plan {
    let table = TableName::new("public", "events");
    Plan { hypertables: vec![Hypertable { table, time_column: "ts".into(), chunk_interval: "1 day".into(), key }], ..Plan::default() }
}

fn one(sql: &str, plan: &Plan) -> Vec<Statement> {
    classify(&Dump::from(sql), plan, TARGET).unwrap().statements
}

#[test]
fn a_foreign_table_becomes_a_partition_at_the_cutover() {
    let dump = "CREATE TABLE public.log (id integer, part integer) PARTITION BY LIST (part);
CREATE TABLE public.log_1 (id integer, part integer);
CREATE FOREIGN TABLE public.log_0 (id integer, part integer) SERVER far;
ALTER TABLE ONLY public.log ATTACH PARTITION public.log_0 FOR VALUES IN (0);
ALTER TABLE ONLY public.log ATTACH PARTITION public.log_1 FOR VALUES IN (1);";
    let phases: Vec<Phase> = one(dump, &Plan::default()).iter().map(|s| s.phase).collect();
    assert_eq!(phases, [Phase::PreData, Phase::PreData, Phase::PreData, Phase::Cutover, Phase::PreData]);
}

#[test]
fn an_event_trigger_comes_last_with_its_state_and_its_owner() {
    let dump = "CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION public.f();
ALTER EVENT TRIGGER e DISABLE;
ALTER EVENT TRIGGER e OWNER TO app;
ALTER FUNCTION public.f() OWNER TO app;
COMMENT ON EVENT TRIGGER e IS 'x';";
    let phases: Vec<Phase> = one(dump, &Plan { owners: true, ..Plan::default() }).iter().map(|s| s.phase).collect();
    let last = Phase::EventTrigger;
    assert_eq!(phases, [last, last, last, Phase::Handover, last]);
}

#[test]
fn post_data_is_sorted_into_phases() {
    let sql = "
--
-- Name: t_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.t
ADD CONSTRAINT t_pkey PRIMARY KEY (id);
CREATE INDEX i ON public.t USING btree (a) WHERE (s = 'x'::text);
ALTER TABLE ONLY public.t ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES public.u(id);
CREATE TRIGGER g BEFORE INSERT ON public.t FOR EACH ROW EXECUTE FUNCTION public.f();
ALTER TABLE public.t DISABLE TRIGGER g;
CREATE POLICY p ON public.t USING (true);
ALTER TABLE public.t ENABLE ROW LEVEL SECURITY;
CREATE STATISTICS public.s ON a, b FROM public.t;
ALTER TABLE public.t CLUSTER ON t_pkey;";
    let found: Vec<(Phase, String)> = one(sql, &Plan::default()).into_iter().map(|s| (s.phase, s.object.to_string())).collect();
    let phases: Vec<Phase> = found.iter().map(|f| f.0).collect();
    let (i, p, c) = (Phase::Index, Phase::PostIndex, Phase::Cutover);
    assert_eq!(phases, [i, i, c, c, c, c, c, p, p]);
    assert_eq!(found[0].1, "CONSTRAINT public.t_pkey");
}

#[test]
fn what_waits_for_the_cutover_among_pre_data_does_not_end_the_pre_data() {
    let sql = "
CREATE TABLE public.t (a integer, CONSTRAINT c CHECK ((a > 0)));
ALTER TABLE ONLY public.t FORCE ROW LEVEL SECURITY;
COMMENT ON CONSTRAINT c ON public.t IS 'inline';
ALTER TABLE public.t OWNER TO somebody;
CREATE VIEW public.v AS SELECT 1;
ALTER TABLE public.t ADD CONSTRAINT later CHECK ((a > 1)) NOT VALID;
COMMENT ON CONSTRAINT later ON public.t IS 'later';
COMMENT ON INDEX public.i IS 'as its index';";
    let phases: Vec<Phase> = one(sql, &Plan::default()).into_iter().map(|s| s.phase).collect();
    let (d, p, c, h) = (Phase::PreData, Phase::PostIndex, Phase::Cutover, Phase::Handover);
    assert_eq!(phases, [d, c, d, h, d, c, c, p]);
}

#[test]
fn n_2_an_unedited_statement_is_sent_as_it_was_printed() {
    let sql = "CREATE INDEX i ON public.t USING btree (a)   WHERE (s = 'it''s'::text)";
    assert_eq!(one(sql, &Plan::default())[0].sql, sql);
}

#[test]
fn h_1_only_is_taken_off_for_hypertables_and_kept_for_others() {
    let sql = "ALTER TABLE ONLY public.events ADD CONSTRAINT k PRIMARY KEY (id, ts);";
    assert!(!one(sql, &plan(KeyChoice::Extend))[0].sql.to_uppercase().contains("ONLY"));
    assert!(one(sql, &Plan::default())[0].sql.contains("ONLY"));
}

#[test]
fn h_15_a_partitioned_table_is_made_without_partitions_where_the_plan_says_so() {
    let dump = "CREATE TABLE public.events (\n    id integer NOT NULL,\n    ts date DEFAULT now()\n)\nPARTITION BY RANGE (ts);\nCREATE INDEX i ON ONLY public.events USING btree (id);\nALTER TABLE public.events ADD CONSTRAINT f FOREIGN KEY (id) REFERENCES public.u(id);";
    let merged = one(dump, &Plan { one_table: [TableName::new("public", "events")].into(), ..Plan::default() });
    assert_eq!(merged[0].sql, "CREATE TABLE public.events (id int NOT NULL, ts date DEFAULT now())");
    assert_eq!(merged[1].sql, "CREATE INDEX i ON public.events USING btree (id)");
    assert!(merged[2].sql.ends_with("NOT VALID") && merged[2].validate.is_some());
    assert_eq!(one(dump, &plan(KeyChoice::Extend))[..2], merged[..2], "a hypertable has no other partitions");
    let kept = one(dump, &Plan::default());
    assert!(kept[0].sql.ends_with("PARTITION BY RANGE (ts)") && kept[1].sql.contains("ONLY") && kept[2].validate.is_none());
}

#[test]
fn h_3_a_key_without_the_time_column_is_extended_or_becomes_an_index() {
    let key = "ALTER TABLE ONLY public.events ADD CONSTRAINT k PRIMARY KEY (id);";
    assert_eq!(one(key, &plan(KeyChoice::Extend))[0].sql, "ALTER TABLE public.events ADD CONSTRAINT k PRIMARY KEY (id, ts)");
    assert_eq!(one(key, &plan(KeyChoice::PlainIndex))[0].sql, "create index \"k\" on \"public\".\"events\" (\"id\")");
    let index = "CREATE UNIQUE INDEX i ON public.events USING btree (a, lower(b));";
    assert_eq!(one(index, &plan(KeyChoice::Extend))[0].sql, "CREATE UNIQUE INDEX i ON public.events USING btree (a, lower(b), ts)");
    assert_eq!(one(index, &plan(KeyChoice::PlainIndex))[0].sql, "CREATE INDEX i ON public.events USING btree (a, lower(b))");
}

#[test]
fn h_3_what_refers_to_a_key_that_became_an_index_follows() {
    let sql = "
ALTER TABLE ONLY public.events ADD CONSTRAINT k PRIMARY KEY (id);
CREATE UNIQUE INDEX i ON public.events USING btree (a);
ALTER TABLE ONLY public.events REPLICA IDENTITY USING INDEX i;
COMMENT ON CONSTRAINT k ON public.events IS 'it''s a key';";
    let found: Vec<String> = one(sql, &plan(KeyChoice::PlainIndex)).into_iter().map(|s| s.sql).collect();
    assert_eq!(found[2..], ["comment on index \"public\".\"k\" is 'it''s a key'"]);
    let found: Vec<String> = one(sql, &plan(KeyChoice::Extend)).into_iter().map(|s| s.sql).collect();
    assert_eq!(found[2..], ["ALTER TABLE public.events REPLICA IDENTITY USING INDEX i", "COMMENT ON CONSTRAINT k ON public.events IS 'it''s a key'"]);
}

#[test]
fn h_3_a_comment_stays_with_the_constraint_of_its_own_table() {
    let sql = "
ALTER TABLE ONLY public.events ADD CONSTRAINT k PRIMARY KEY (id);
ALTER TABLE ONLY public.t ADD CONSTRAINT k FOREIGN KEY (a) REFERENCES public.u(id);
COMMENT ON CONSTRAINT k ON public.t IS 'a foreign key';";
    let found = one(sql, &plan(KeyChoice::PlainIndex));
    assert_eq!((found[2].phase, found[2].sql.as_str()), (Phase::Cutover, "COMMENT ON CONSTRAINT k ON public.t IS 'a foreign key'"));
}

#[test]
fn b_3_an_identity_is_by_default_until_the_cutover() {
    let sql = "ALTER TABLE public.t ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
SEQUENCE NAME public.t_id_seq START WITH 1 INCREMENT BY 1 NO MINVALUE NO MAXVALUE CACHE 1);";
    let found = one(sql, &Plan::default());
    assert_eq!(found[0].phase, Phase::Cutover);
    assert!(found[0].sql.ends_with("set generated always"));
    assert_eq!(found[1].sql, sql.trim_end_matches(';').replace("ALWAYS", "BY DEFAULT"));
    // Words that the printer of the parser does not know stay, and names are no key words.
    let sql = "ALTER TABLE public.\"GENERATED ALWAYS\" ALTER COLUMN generated ADD GENERATED ALWAYS AS IDENTITY (
SEQUENCE NAME public.s
UNLOGGED
)";
    assert_eq!(one(sql, &Plan::default())[1].sql, sql.replace("ADD GENERATED ALWAYS", "ADD GENERATED BY DEFAULT"));
}

#[test]
fn a_foreign_key_is_not_valid_first_and_validated_later() {
    let found = one("ALTER TABLE ONLY public.t ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES public.u(id) ON DELETE CASCADE;", &Plan::default());
    assert!(found[0].sql.ends_with("NOT VALID") && found[0].sql.contains("CASCADE"), "{}", found[0].sql);
    assert_eq!(found[0].validate.as_deref(), Some("alter table only \"public\".\"t\" validate constraint \"f\""));
}

#[test]
fn h_3_an_exclusion_constraint_becomes_an_index_where_the_plan_says_so() {
    let dump = "ALTER TABLE ONLY public.events
ADD CONSTRAINT x EXCLUDE USING gist (room WITH =, during WITH &&) WHERE ((room > 3));
COMMENT ON CONSTRAINT x ON public.events IS 'a rule';";
    let schema = classify(&Dump::from(dump), &plan(KeyChoice::PlainIndex), TARGET).unwrap();
    let found: Vec<&str> = schema.statements.iter().map(|s| s.sql.as_str()).collect();
    assert_eq!(found, ["CREATE INDEX x ON public.events USING gist (room, during) WHERE room > 3", "comment on index \"public\".\"x\" is 'a rule'"]);
    assert_eq!(schema.notes.iter().map(|n| n.hypertable.as_ref().unwrap().to_string()).collect::<Vec<_>>(), ["public.events"]);
    assert!(one(dump, &plan(KeyChoice::Extend))[0].sql.contains("EXCLUDE"));
    let by_time = "ALTER TABLE ONLY public.events ADD CONSTRAINT x EXCLUDE USING gist (room WITH =, ts WITH =);";
    assert!(one(by_time, &plan(KeyChoice::PlainIndex))[0].sql.contains("EXCLUDE"), "rows that exclude each other are in one chunk");
}

#[test]
fn h_22_triggers_of_hypertables_have_no_state() {
    let dump = "
-- Name: f(); Type: FUNCTION; Schema: public; Owner: -
CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS $$ begin raise notice '%', TG_TABLE_NAME; return new; end $$;
-- Name: events off; Type: TRIGGER; Schema: public; Owner: -
CREATE TRIGGER off BEFORE INSERT ON public.events FOR EACH ROW EXECUTE FUNCTION public.f();
ALTER TABLE public.events DISABLE TRIGGER off;
-- Name: TRIGGER off ON events; Type: COMMENT; Schema: public; Owner: -
COMMENT ON TRIGGER off ON public.events IS 'off';
ALTER TRIGGER off ON public.events DEPENDS ON EXTENSION citext;
-- Name: events always; Type: TRIGGER; Schema: public; Owner: -
CREATE TRIGGER always BEFORE INSERT ON public.events FOR EACH ROW EXECUTE FUNCTION public.f();
ALTER TABLE public.events ENABLE ALWAYS TRIGGER always;
-- Name: events replica; Type: TRIGGER; Schema: public; Owner: -
CREATE TRIGGER replica BEFORE INSERT ON public.events FOR EACH ROW EXECUTE FUNCTION public.f();
ALTER TABLE public.events ENABLE REPLICA TRIGGER replica;";
    let schema = classify(&Dump::from(dump), &plan(KeyChoice::Extend), TARGET).unwrap();
    let made: Vec<String> = schema.statements.iter().map(|s| s.object.to_string()).collect();
    assert_eq!(made, ["FUNCTION public.f()", "TRIGGER public.events always"]);
    let noted: Vec<String> = schema.notes.iter().map(|n| format!("{}: {}", n.object, n.reason.split(',').next().unwrap())).collect();
    let of_chunk = "TRIGGER public.events always: its function reads TG_TABLE_NAME";
    let ordinary = "TRIGGER public.events always: an ordinary trigger on the target";
    assert_eq!(noted, ["TRIGGER public.events off: left out", of_chunk, ordinary, "TRIGGER public.events replica: left out"]);
    assert_eq!(one(dump, &Plan::default()).len(), 9, "a plain table keeps them all");
}

#[test]
fn the_digest_is_of_what_is_made_before_the_copy() {
    let digest = |sql: &str, plan: &Plan| classify(&Dump::from(sql), plan, TARGET).unwrap().digest;
    let (table, key) = ("CREATE TABLE public.events (id integer, ts date);", "ALTER TABLE ONLY public.events ADD CONSTRAINT k PRIMARY KEY (id);");
    let trigger = "CREATE TRIGGER g BEFORE INSERT ON public.events FOR EACH ROW EXECUTE FUNCTION public.f();";
    let (with, without) = (format!("{table}{key}{trigger}"), format!("{table}{key}"));
    assert_eq!(digest(&with, &Plan::default()), digest(&without, &plan(KeyChoice::Extend)));
    assert_ne!(digest(&with, &Plan::default()), digest(&with.replace("integer", "bigint"), &Plan::default()));
    let schema = classify(&Dump::from(with.as_str()), &Plan::default(), TARGET).unwrap();
    assert!(schema.has_digest(&schema.whole_digest) && !schema.has_digest("another"));
}
