//! Roles of the source on the target: without passwords, and without rights that only a superuser can give.
//!
//! What the target refuses is reported and stops nothing, because roles can be corrected at any time.

use std::collections::HashSet;

use crate::{
    error::{Error, Result},
    event::Level,
    migration::context::Context,
    name::{ident, literal},
    pg::{
        catalog::{self, versions},
        client::Client,
    },
};

/// Roles that belong to a server or a managed service; they are never created on the target (N-10).
const RESERVED: &str = "^(pg_|rds|cloudsql|azure|_aiven|supabase|neon)|^(postgres|tsdbadmin|tsdbowner|doadmin|avnadmin)$";

pub async fn create(cx: &mut Context, source: &Client, target: &Client) -> Result<()> {
    let known = catalog::role_names(target).await?;
    let mut created = Vec::new();
    let mut without_password = Vec::new();
    for role in roles_to_create(source).await? {
        let name = on_target(cx, &role.name);
        if known.contains(&name) {
            continue;
        }
        if let Some(lost) = create_one(cx, target, &role, &name).await? {
            if role.login {
                without_password.push(name.clone());
            }
            if !lost.is_empty() {
                cx.not_moved(format!("ROLE {name}"), format!("is there, but not as {lost}: only a superuser may give that")).await?;
            }
            settings(cx, source, target, &role.name, &name).await?;
            created.push(name);
        }
    }
    if !created.is_empty() {
        cx.notice(Level::Info, format!("{} roles created: {}", created.len(), created.join(", "))).await;
    }
    if !without_password.is_empty() {
        let names = without_password.join(", ");
        cx.not_moved("PASSWORDS", format!("of {names}: no server shows them; alter role … password '…' on the target")).await?;
    }
    memberships(cx, source, target).await
}

/// The roles of the source that the target lacks, under the names that they would have there.
pub async fn missing(cx: &Context, source: &Client, target: &Client) -> Result<Vec<String>> {
    let known = catalog::role_names(target).await?;
    let wanted = roles_to_create(source).await?.into_iter().map(|role| on_target(cx, &role.name));
    Ok(wanted.filter(|name| !known.contains(name)).collect())
}

fn on_target(cx: &Context, name: &str) -> String {
    cx.plan.roles.get(name).cloned().unwrap_or_else(|| name.to_owned())
}

struct Role {
    name: String,
    login: bool,
    /// The options of `CREATE ROLE` that whoever may create roles may give.
    options: String,
    /// `CREATEDB`, `CREATEROLE`.
    rights: Vec<&'static str>,
    /// Stripped: `SUPERUSER`, `REPLICATION`, `BYPASSRLS`.
    powers: Vec<&'static str>,
    comment: Option<String>,
}

async fn roles_to_create(source: &Client) -> Result<Vec<Role>> {
    let rows = source
        .query(
            "select rolname::text as name, rolcanlogin as login, rolinherit as inherits, rolcreatedb as createdb, rolcreaterole as createrole,
                    rolsuper as superuser, rolreplication as replication, rolbypassrls as bypassrls, rolconnlimit as connections,
                    rolvaliduntil::text as valid_until, shobj_description(oid, 'pg_authid') as comment
               from pg_roles where rolname !~* $1 and rolname <> current_user order by 1",
            &[&RESERVED],
        )
        .await?;
    let role = |r: &tokio_postgres::Row| {
        let has = |column: &str| r.get::<_, bool>(column);
        let those = |names: &[(&'static str, &'static str)]| names.iter().filter(|(column, _)| has(column)).map(|(_, word)| *word).collect();
        let mut options = format!("{}login {}inherit", if has("login") { "" } else { "no" }, if has("inherits") { "" } else { "no" });
        if let connections @ 0.. = r.get::<_, i32>("connections") {
            options.push_str(" connection limit ");
            options.push_str(&connections.to_string());
        }
        if let Some(until) = r.get::<_, Option<&str>>("valid_until") {
            options.push_str(" valid until ");
            options.push_str(&literal(until));
        }
        Role {
            name: r.get("name"),
            login: has("login"),
            options,
            rights: those(&[("createdb", "createdb"), ("createrole", "createrole")]),
            powers: those(&[("superuser", "superuser"), ("replication", "replication"), ("bypassrls", "bypassrls")]),
            comment: r.get("comment"),
        }
    };
    Ok(rows.iter().map(role).collect())
}

/// What the role could not be given, in words; `None` if it could not be created.
async fn create_one(cx: &mut Context, target: &Client, role: &Role, name: &str) -> Result<Option<String>> {
    let mut lost = role.powers.clone();
    let plain = format!("create role {} {}", ident(name), role.options);
    let mut result = target.batch_execute(&format!("{plain} {}", role.rights.join(" "))).await.map_err(Error::from);
    if result.is_err() && !role.rights.is_empty() {
        lost.extend(&role.rights);
        result = target.batch_execute(&plain).await.map_err(Error::from);
    }
    if let Err(e) = result {
        cx.not_moved(format!("ROLE {name}"), e.to_string()).await?;
        return Ok(None);
    }
    if let Some(comment) = &role.comment {
        try_or_report(cx, target, &format!("COMMENT on role {name}"), &format!("comment on role {} is {}", ident(name), literal(comment))).await?;
    }
    Ok(Some(lost.join(", ")))
}

async fn try_or_report(cx: &mut Context, target: &Client, what: &str, sql: &str) -> Result<()> {
    match target.batch_execute(sql).await.map_err(Error::from) {
        Ok(()) => Ok(()),
        Err(e) => cx.not_moved(what, e.to_string()).await,
    }
}

/// `ALTER ROLE … SET`, for all databases and for this one.
async fn settings(cx: &mut Context, source: &Client, target: &Client, from: &str, name: &str) -> Result<()> {
    for (in_database, setting) in catalog::role_settings(source, from).await? {
        let database = if in_database {
            format!(" in database {}", ident(&catalog::value::<String>(target, "select current_database()::text").await?))
        } else {
            String::new()
        };
        let sql = format!("alter role {}{database} set {}", ident(name), catalog::setting_sql(&setting));
        try_or_report(cx, target, &format!("SETTING {setting} of role {name}"), &sql).await?;
    }
    Ok(())
}

/// A membership as somebody granted it; newer servers know one of each grantor, with options.
struct Grant {
    grantor: Option<String>,
    admin: bool,
    /// `None`: as the member's own `INHERIT` says.
    inherit: Option<bool>,
    set: bool,
}

impl Grant {
    fn options(&self, target: &Client) -> String {
        if target.version() / 10_000 < versions::MEMBERSHIP_OPTIONS {
            return if self.admin { " with admin option".into() } else { String::new() };
        }
        let inherit = self.inherit.map_or_else(String::new, |on| format!(", inherit {on}"));
        format!(" with admin {}{inherit}, set {}", self.admin, self.set)
    }
}

/// All memberships of one role in another.
struct Membership {
    role: String,
    member: String,
    /// What the member's `INHERIT` says.
    inherits: bool,
    grants: Vec<Grant>,
}

impl Membership {
    fn granted_by_the_same(&self, target: &Client) -> String {
        let one = |g: &Grant| {
            let by = g.grantor.as_ref().map_or_else(String::new, |grantor| format!(" granted by {}", ident(grantor)));
            format!("grant {} to {}{}{by}", ident(&self.role), ident(&self.member), g.options(target))
        };
        self.grants.iter().map(one).collect::<Vec<_>>().join("; ")
    }

    /// All of them as one grant.
    fn merged(&self) -> Grant {
        let any = |is: fn(&Grant) -> bool| self.grants.iter().any(is);
        let inherit = self.grants.iter().fold(None, |all, g| g.inherit.map(|on| on || all == Some(true)));
        Grant { grantor: None, admin: any(|g| g.admin), inherit, set: any(|g| g.set) }
    }
}

/// Grants the memberships of which the target has both roles. Only a superuser may name the grantor, who must hold the admin option by then;
/// otherwise the migration's user is the grantor.
async fn memberships(cx: &mut Context, source: &Client, target: &Client) -> Result<()> {
    let newer = target.version() / 10_000 >= versions::MEMBERSHIP_OPTIONS;
    let mut left = memberships_of(cx, source, target).await?;
    if !newer {
        for membership in &mut left {
            membership.grants = vec![Grant { grantor: membership.grants[0].grantor.take(), ..membership.merged() }];
        }
    }
    let mut before = usize::MAX;
    while left.len() < before {
        before = left.len();
        let mut failed = Vec::new();
        for membership in left {
            if target.batch_execute(&membership.granted_by_the_same(target)).await.is_err() {
                failed.push(membership);
            } else {
                report_lost_options(cx, &membership, newer).await?;
            }
        }
        left = failed;
    }
    for membership in left {
        let membership = Membership { grants: vec![membership.merged()], ..membership };
        let what = format!("MEMBERSHIP of {} in {}", membership.member, membership.role);
        try_or_report(cx, target, &what, &membership.granted_by_the_same(target)).await?;
        report_lost_options(cx, &membership, newer).await?;
    }
    Ok(())
}

/// Reports what an older target cannot record of a membership.
async fn report_lost_options(cx: &mut Context, membership: &Membership, newer: bool) -> Result<()> {
    let Grant { inherit, set, .. } = membership.merged();
    let mut lost = Vec::new();
    if inherit.is_some_and(|on| on != membership.inherits) {
        lost.push(if membership.inherits { "inherits" } else { "does not inherit" });
    }
    if !set {
        lost.push("may set role");
    }
    if newer || lost.is_empty() {
        return Ok(());
    }
    let Membership { role, member, .. } = membership;
    let reason = format!("the member {} on the target, which knows no such options of a membership", lost.join(" and "));
    cx.not_moved(format!("MEMBERSHIP of {member} in {role}"), reason).await
}

/// The memberships that the target lacks. Those with the admin option come first, because their members may have granted others.
async fn memberships_of(cx: &mut Context, source: &Client, target: &Client) -> Result<Vec<Membership>> {
    let options = if source.version() / 10_000 >= versions::MEMBERSHIP_OPTIONS {
        "a.inherit_option, a.set_option"
    } else {
        "null::bool as inherit_option, true as set_option"
    };
    let sql = format!(
        "select r.rolname::text as role, u.rolname::text as member, u.rolinherit as inherits, g.rolname::text as grantor, a.admin_option, {options}
           from pg_auth_members a join pg_roles r on r.oid = a.roleid join pg_roles u on u.oid = a.member left join pg_roles g on g.oid = a.grantor
          where u.rolname !~* $1 and u.rolname <> current_user
          order by bool_or(a.admin_option) over (partition by r.oid, u.oid) desc, 1, 2, a.admin_option desc, 4"
    );
    let there = "select r.rolname::text as role, u.rolname::text as member from pg_auth_members a
                   join pg_roles r on r.oid = a.roleid join pg_roles u on u.oid = a.member";
    let there: HashSet<(String, String)> = target.query(there, &[]).await?.iter().map(|r| (r.get("role"), r.get("member"))).collect();
    let known = catalog::role_names(target).await?;
    let mut found: Vec<Membership> = Vec::new();
    for row in source.query(&sql, &[&RESERVED]).await? {
        let (role, member) = (on_target(cx, row.get("role")), on_target(cx, row.get("member")));
        if role == member || !known.contains(&member) || there.contains(&(role.clone(), member.clone())) {
            continue;
        }
        if !known.contains(&role) {
            // Of a service, of a newer version, or one that could not be created.
            cx.not_moved(format!("MEMBERSHIP of {member} in {role}"), "the target has no such role").await?;
            continue;
        }
        let grantor = row.get::<_, Option<&str>>("grantor").map(|g| on_target(cx, g));
        let grant = Grant { grantor, admin: row.get("admin_option"), inherit: row.get("inherit_option"), set: row.get("set_option") };
        match found.last_mut() {
            Some(last) if (&last.role, &last.member) == (&role, &member) => last.grants.push(grant),
            _ => found.push(Membership { role, member, inherits: row.get("inherits"), grants: vec![grant] }),
        }
    }
    Ok(found)
}
