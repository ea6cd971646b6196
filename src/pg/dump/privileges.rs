//! Owners and grants of a dump: the roles that a statement names, mapped to those of the target.

use pg_query::{
    Node, NodeEnum,
    protobuf::{RoleSpec, RoleSpecType},
};
use std::collections::BTreeMap;

/// The roles that a statement names, with the names that they have on the target; whether any has another name there.
pub(super) fn map_roles(node: &mut NodeEnum, map: &BTreeMap<String, String>) -> (Vec<String>, bool) {
    let mut names = Vec::new();
    let mut edited = false;
    for role in roles_of(node).into_iter().filter(|r| r.roletype == RoleSpecType::RolespecCstring as i32) {
        if let Some(other) = map.get(&role.rolename).filter(|other| **other != role.rolename) {
            role.rolename.clone_from(other);
            edited = true;
        }
        names.push(role.rolename.clone());
    }
    (names, edited)
}

/// The roles of which whoever runs the statement must be a member: a new owner, or the role for whom default privileges are set.
pub(super) fn member_of(node: &mut NodeEnum) -> Vec<String> {
    let roles: Vec<&mut RoleSpec> = match node {
        NodeEnum::AlterDefaultPrivilegesStmt(s) => s.options.iter_mut().flat_map(roles_of_option).collect(),
        NodeEnum::AlterOwnerStmt(_) | NodeEnum::AlterTableStmt(_) => roles_of(node),
        _ => Vec::new(),
    };
    roles.into_iter().map(|r| r.rolename.clone()).collect()
}

fn roles_of(node: &mut NodeEnum) -> Vec<&mut RoleSpec> {
    match node {
        NodeEnum::AlterOwnerStmt(s) => s.newowner.iter_mut().collect(),
        NodeEnum::AlterTableStmt(s) => {
            s.cmds.iter_mut().filter_map(|c| if let Some(NodeEnum::AlterTableCmd(c)) = &mut c.node { c.newowner.as_mut() } else { None }).collect()
        }
        NodeEnum::GrantStmt(s) => specs(&mut s.grantees).chain(&mut s.grantor).collect(),
        NodeEnum::AlterDefaultPrivilegesStmt(s) => {
            let grantees = s.action.iter_mut().flat_map(|a| specs(&mut a.grantees));
            s.options.iter_mut().flat_map(roles_of_option).chain(grantees).collect()
        }
        NodeEnum::CreatePolicyStmt(s) => specs(&mut s.roles).collect(),
        NodeEnum::CreateUserMappingStmt(s) => s.user.iter_mut().collect(),
        _ => Vec::new(),
    }
}

fn specs(nodes: &mut [Node]) -> impl Iterator<Item = &mut RoleSpec> {
    nodes.iter_mut().filter_map(|n| if let Some(NodeEnum::RoleSpec(role)) = &mut n.node { Some(role) } else { None })
}

/// `FOR ROLE …` of `ALTER DEFAULT PRIVILEGES`.
fn roles_of_option(option: &mut Node) -> Vec<&mut RoleSpec> {
    let Some(NodeEnum::DefElem(element)) = &mut option.node else { return Vec::new() };
    match element.arg.as_mut().and_then(|arg| arg.node.as_mut()) {
        Some(NodeEnum::List(list)) => specs(&mut list.items).collect(),
        _ => Vec::new(),
    }
}
