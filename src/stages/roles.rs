//! Roles of the source on the target: without passwords, and without rights that only a superuser can give.
//!
//! What a target does not let us give is told, and stops nothing: roles may be mended at any time.

use std::collections::HashSet;

use crate::{
    error::{Error, Result},
    event::Level,
    migration::Migration,
    name::{ident, literal},
    pg::{catalog, client::Client},
};

/// Roles that belong to a server or a managed service; they are never created on the target (N-10).
const RESERVED: &str = "^(pg_|rds|cloudsql|azure|_aiven|supabase|neon)|^(postgres|tsdbadmin|tsdbowner|doadmin|avnadmin)$";
/// From here on a membership says whether it inherits, and whether its member may `set role`.
const MEMBERSHIP_OPTIONS: u32 = 160_000;

pub async fn create(m: &mut Migration, source: &Client, target: &Client) -> Result<()> {
    let known = catalog::role_names(target).await?;
    let mut created = Vec::new();
    let mut without_password = Vec::new();
    for role in wanted(source).await? {
        let name = on_target(m, &role.name);
        if known.contains(&name) {
            continue;
        }
        if let Some(lost) = create_one(m, target, &role, &name).await? {
            if role.login {
                without_password.push(name.clone());
            }
            if !lost.is_empty() {
                m.not_moved(format!("ROLE {name}"), format!("is there, but not as {lost}: only a superuser may give that")).await?;
            }
            settings(m, source, target, &role.name, &name).await?;
            created.push(name);
        }
    }
    if !created.is_empty() {
        m.notice(Level::Info, format!("{} roles created: {}", created.len(), created.join(", "))).await;
    }
    if !without_password.is_empty() {
        let names = without_password.join(", ");
        m.not_moved("PASSWORDS", format!("of {names}: no server tells them; alter role … password '…' on the target")).await?;
    }
    memberships(m, source, target).await
}

fn on_target(m: &Migration, name: &str) -> String {
    m.plan.roles.get(name).cloned().unwrap_or_else(|| name.to_owned())
}

struct Role {
    name: String,
    login: bool,
    /// The options of `CREATE ROLE` that everybody may give who may create roles.
    options: String,
    /// `CREATEDB`, `CREATEROLE`.
    rights: Vec<&'static str>,
    /// Stripped: `SUPERUSER`, `REPLICATION`, `BYPASSRLS`.
    powers: Vec<&'static str>,
    comment: Option<String>,
}

async fn wanted(source: &Client) -> Result<Vec<Role>> {
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
async fn create_one(m: &mut Migration, target: &Client, role: &Role, name: &str) -> Result<Option<String>> {
    let mut lost = role.powers.clone();
    let plain = format!("create role {} {}", ident(name), role.options);
    let mut result = target.batch_execute(&format!("{plain} {}", role.rights.join(" "))).await.map_err(Error::from);
    if result.is_err() && !role.rights.is_empty() {
        lost.extend(&role.rights);
        result = target.batch_execute(&plain).await.map_err(Error::from);
    }
    if let Err(e) = result {
        m.not_moved(format!("ROLE {name}"), e.to_string()).await?;
        return Ok(None);
    }
    if let Some(comment) = &role.comment {
        attempt(m, target, &format!("COMMENT on role {name}"), &format!("comment on role {} is {}", ident(name), literal(comment))).await?;
    }
    Ok(Some(lost.join(", ")))
}

async fn attempt(m: &mut Migration, target: &Client, what: &str, sql: &str) -> Result<()> {
    match target.batch_execute(sql).await.map_err(Error::from) {
        Ok(()) => Ok(()),
        Err(e) => m.not_moved(what, e.to_string()).await,
    }
}

/// `ALTER ROLE … SET`, for all databases and for this one.
async fn settings(m: &mut Migration, source: &Client, target: &Client, from: &str, name: &str) -> Result<()> {
    for (in_database, setting) in catalog::role_settings(source, from).await? {
        let database = if in_database {
            format!(" in database {}", ident(&catalog::value::<String>(target, "select current_database()::text").await?))
        } else {
            String::new()
        };
        let sql = format!("alter role {}{database} set {}", ident(name), catalog::setting_sql(&setting));
        attempt(m, target, &format!("SETTING {setting} of role {name}"), &sql).await?;
    }
    Ok(())
}

/// Who is a member of whom, where the member is a role that could be created.
async fn memberships(m: &mut Migration, source: &Client, target: &Client) -> Result<()> {
    let options =
        if source.version() >= MEMBERSHIP_OPTIONS { "a.inherit_option, a.set_option" } else { "null::bool as inherit_option, true as set_option" };
    let sql = format!(
        "select r.rolname::text as role, u.rolname::text as member, g.rolname::text as grantor, a.admin_option, {options}
           from pg_auth_members a join pg_roles r on r.oid = a.roleid join pg_roles u on u.oid = a.member left join pg_roles g on g.oid = a.grantor
          where u.rolname !~* $1 and u.rolname <> current_user order by a.admin_option desc, 1, 2, 3"
    );
    let there = target
        .query("select r.rolname::text as role, u.rolname::text as member from pg_auth_members a join pg_roles r on r.oid = a.roleid join pg_roles u on u.oid = a.member", &[])
        .await?;
    let mut there: HashSet<(String, String)> = there.iter().map(|r| (r.get("role"), r.get("member"))).collect();
    for row in source.query(&sql, &[&RESERVED]).await? {
        let (role, member) = (on_target(m, row.get("role")), on_target(m, row.get("member")));
        if role == member || !there.insert((role.clone(), member.clone())) {
            continue;
        }
        let mut with = Vec::new();
        let admin: bool = row.get("admin_option");
        if target.version() >= MEMBERSHIP_OPTIONS {
            with.push(format!("admin {admin}"));
            with.extend(row.get::<_, Option<bool>>("inherit_option").map(|on| format!("inherit {on}")));
            with.push(format!("set {}", row.get::<_, bool>("set_option")));
        } else if admin {
            with.push("admin option".to_owned());
        }
        let with = if with.is_empty() { String::new() } else { format!(" with {}", with.join(", ")) };
        let grant = format!("grant {} to {}{with}", ident(&role), ident(&member));
        let grantor = row.get::<_, Option<&str>>("grantor").map(|g| on_target(m, g));
        // Who granted it can be said only by a superuser, and of somebody who may grant it.
        if let Some(grantor) = grantor
            && target.batch_execute(&format!("{grant} granted by {}", ident(&grantor))).await.is_ok()
        {
            continue;
        }
        attempt(m, target, &format!("MEMBERSHIP of {member} in {role}"), &grant).await?;
    }
    Ok(())
}
