//! What the source's catalogs say about the order decides before the kind of a statement.

use super::*;

const TARGET: Target = Target { major: 18, timescale: true };

#[test]
fn b_26_what_tables_need_is_made_before_the_copy_and_what_needs_more_than_one_table_after_it() {
    let dump = "
-- Object: 1259 1
-- Name: t; Type: TABLE; Schema: public; Owner: -
CREATE TABLE public.t (id integer);
-- Object: 2606 2
-- Name: t t_pkey; Type: CONSTRAINT; Schema: public; Owner: -
ALTER TABLE ONLY public.t ADD CONSTRAINT t_pkey PRIMARY KEY (id);
-- Object: 1255 3
-- Name: f(); Type: FUNCTION; Schema: public; Owner: -
CREATE FUNCTION public.f() RETURNS integer LANGUAGE sql AS 'select 1';
-- Object: 1259 4
-- Name: u; Type: TABLE; Schema: public; Owner: -
CREATE TABLE public.u (id integer DEFAULT public.f());
ALTER TABLE ONLY public.u ALTER COLUMN id SET STATISTICS 5;
-- Name: u; Type: TABLE ATTACH; Schema: public; Owner: -
ALTER TABLE ONLY public.p ATTACH PARTITION public.u DEFAULT;
-- Object: 1255 5
-- Name: g(); Type: FUNCTION; Schema: public; Owner: -
CREATE FUNCTION public.g() RETURNS integer LANGUAGE sql AS 'select 1';
-- Object: 1259 6
-- Name: i; Type: INDEX; Schema: public; Owner: -
CREATE INDEX i ON public.t USING btree (public.g());
-- Object: 1259 7
-- Name: j; Type: INDEX; Schema: public; Owner: -
CREATE INDEX j ON public.u USING btree (id);
-- Name: j; Type: INDEX ATTACH; Schema: public; Owner: -
ALTER INDEX public.k ATTACH PARTITION public.j;";
    let order = CreationOrder::of(&[(2606, 2), (1255, 3), (1259, 4)], &[(1259, 6)], &[]);
    let schema = classify(&Dump { order: order.into(), ..Dump::from(dump) }, &Plan::default(), TARGET).unwrap();
    let (d, i, p) = (Phase::PreData, Phase::Index, Phase::PostIndex);
    let phases: Vec<Phase> = schema.statements.iter().map(|s| s.phase).collect();
    assert_eq!(phases, [d, d, d, d, d, d, p, p, i, p]);
    assert_eq!(schema.tables.iter().map(|(_, phase)| *phase).collect::<Vec<_>>(), [d, d]);
}

#[test]
fn b_27_a_check_that_calls_a_function_leaves_its_table_until_the_cutover() {
    let dump = "
-- Object: 1259 1
-- Name: t; Type: TABLE; Schema: public; Owner: -
CREATE TABLE public.t (
id integer,
CONSTRAINT c CHECK (public.f(id)) NO INHERIT,
CONSTRAINT d CHECK ((id > 0))
);
-- Name: CONSTRAINT c ON t; Type: COMMENT; Schema: public; Owner: -
COMMENT ON CONSTRAINT c ON public.t IS 'c';
-- Name: CONSTRAINT d ON t; Type: COMMENT; Schema: public; Owner: -
COMMENT ON CONSTRAINT d ON public.t IS 'd';";
    let order = CreationOrder::of(&[], &[], &[(1, "c")]);
    let found = classify(&Dump { order: order.into(), ..Dump::from(dump) }, &Plan::default(), TARGET).unwrap().statements;
    let sql: Vec<(Phase, &str)> = found.iter().map(|s| (s.phase, s.sql.as_str())).collect();
    let (d, c) = (Phase::PreData, Phase::Cutover);
    assert_eq!(
        sql,
        [
            (d, "CREATE TABLE public.t (id int, CONSTRAINT d CHECK (id > 0))"),
            (c, "ALTER TABLE public.t ADD CONSTRAINT c CHECK (public.f(id)) NO INHERIT NOT VALID"),
            (c, "COMMENT ON CONSTRAINT c ON public.t IS 'c'"),
            (d, "COMMENT ON CONSTRAINT d ON public.t IS 'd'"),
        ]
    );
    assert_eq!(found[1].validate.as_deref(), Some("alter table \"public\".\"t\" validate constraint \"c\""));
}

#[test]
fn n_12_a_dump_with_other_backslashes_is_refused() {
    for (setting, is_read) in [("on", true), ("off", false)] {
        let dump = format!("SET standard_conforming_strings = {setting};");
        assert_eq!(classify(&dump.as_str().into(), &Plan::default(), TARGET).is_ok(), is_read);
    }
}
