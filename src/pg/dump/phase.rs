//! When the objects of a schema are created, kind by kind: the one table of phases. Where the rest of a statement decides as well (an
//! identity column, a check that is not valid yet), the exception is made where the statement is edited: [`super::alter_table`] and
//! [`super::downgrade`].

use pg_query::{
    NodeEnum,
    protobuf::{AlterTableStmt, AlterTableType, CmdType, ConstrType, ObjectType},
};

use super::statement::Phase;
use crate::pg::object::ObjectKind;

/// Where the objects of a kind have their place.
struct Place {
    /// pg_dump writes them after the data only.
    after_data: bool,
    /// `None`: as the section of the dump says, before the copy or after the indexes.
    made: Option<Phase>,
    /// When a comment on one is made; `None`: as its section says.
    comment: Option<Phase>,
}

/// The table. Kinds of one phase have rows of their own where their reasons differ.
#[expect(clippy::match_same_arms, reason = "each row has its reason")]
fn place(kind: ObjectKind) -> Place {
    use ObjectKind as K;
    use Phase::{Cutover, EventTrigger, Handover, Index, Subscription};
    // After the data, created, its comment.
    let (after_data, made, comment) = match kind {
        K::Index => (true, Some(Index), None),
        K::Constraint => (true, Some(Index), Some(Cutover)),
        // A comment does not say of which kind its constraint is: all of them are there at the cutover.
        K::CheckConstraint => (true, None, Some(Cutover)),
        K::ForeignKey => (true, Some(Cutover), Some(Cutover)),
        // A constraint that was added to a domain later may not hold for existing rows, and would be checked again whenever replay writes
        // such a row.
        K::DomainConstraint => (true, Some(Cutover), Some(Cutover)),
        // They would change what replay writes, or refuse it.
        K::Trigger | K::Rule | K::Policy => (true, Some(Cutover), Some(Cutover)),
        K::RowSecurity => (true, Some(Cutover), None),
        K::Statistics => (true, None, None),
        // They would fire at hyperlift's own statements.
        K::EventTrigger => (true, Some(EventTrigger), Some(EventTrigger)),
        // TimescaleDB makes no hypertable of what is published.
        K::Publication => (true, Some(Handover), Some(Handover)),
        K::Subscription => (true, Some(Subscription), Some(Handover)),
        // An extension brings its own comment. Another one needs its owner.
        K::Extension => (false, None, Some(Handover)),
        // Until then everything belongs to the user of the migration.
        K::Owner | K::Grant | K::DefaultGrant => (false, Some(Handover), None),
        _ => (false, None, None),
    };
    Place { after_data, made, comment }
}

/// The phase of a statement that pg_dump wrote in this section (before the copy or after the indexes).
pub(super) fn phase_of(node: &NodeEnum, section: Phase) -> Phase {
    match node {
        // It is not there before.
        NodeEnum::AlterOwnerStmt(s) if s.object_type == ObjectType::ObjectEventTrigger as i32 => Phase::EventTrigger,
        node => kind_of(node).and_then(|kind| place(kind).made).unwrap_or(section),
    }
}

/// The phase of a comment on an object of this type.
pub(super) fn phase_of_comment(object_type: i32, section: Phase) -> Phase {
    let Some(place) = commented_kind(object_type).map(place) else { return section };
    // Among what comes before the data it is on something that was made there, such as a constraint within CREATE TABLE.
    let is_inline = place.after_data && section == Phase::PreData;
    place.comment.filter(|_| !is_inline).unwrap_or(section)
}

/// Whether a statement says whom an object belongs to, or who may use it.
pub(super) fn is_privilege(node: &NodeEnum) -> bool {
    matches!(kind_of(node), Some(ObjectKind::Owner | ObjectKind::Grant | ObjectKind::DefaultGrant))
}

/// Whether pg_dump writes such a statement only after the data.
pub(super) fn begins_post_data(node: &NodeEnum) -> bool {
    match node {
        // A view's own rule, too, when it is written apart from the view.
        NodeEnum::RuleStmt(_) => true,
        // Other forms belong to a table or an index, wherever that is.
        NodeEnum::AlterTableStmt(s) => {
            [AlterTableType::AtAddConstraint, AlterTableType::AtEnableRowSecurity].iter().any(|kind| subcommands(s).any(|c| c == *kind))
        }
        node => kind_of(node).is_some_and(|kind| place(kind).after_data),
    }
}

/// The kind of object that a statement makes or alters; `None` for one that has no place of its own.
fn kind_of(node: &NodeEnum) -> Option<ObjectKind> {
    Some(match node {
        NodeEnum::IndexStmt(_) => ObjectKind::Index,
        NodeEnum::AlterTableStmt(s) => return kind_of_alter_table(s),
        NodeEnum::CreateTrigStmt(_) => ObjectKind::Trigger,
        NodeEnum::AlterObjectDependsStmt(s) if s.object_type == ObjectType::ObjectTrigger as i32 => ObjectKind::Trigger,
        // A view's own rule belongs to the view.
        NodeEnum::RuleStmt(r) if r.event != CmdType::CmdSelect as i32 => ObjectKind::Rule,
        NodeEnum::CreatePolicyStmt(_) => ObjectKind::Policy,
        NodeEnum::CreateStatsStmt(_) => ObjectKind::Statistics,
        NodeEnum::AlterDomainStmt(s) if s.subtype == "C" => ObjectKind::DomainConstraint,
        NodeEnum::CreateEventTrigStmt(_) | NodeEnum::AlterEventTrigStmt(_) => ObjectKind::EventTrigger,
        NodeEnum::CreatePublicationStmt(_) | NodeEnum::AlterPublicationStmt(_) => ObjectKind::Publication,
        NodeEnum::CreateSubscriptionStmt(_) => ObjectKind::Subscription,
        NodeEnum::AlterOwnerStmt(_) => ObjectKind::Owner,
        NodeEnum::GrantStmt(_) => ObjectKind::Grant,
        NodeEnum::AlterDefaultPrivilegesStmt(_) => ObjectKind::DefaultGrant,
        _ => return None,
    })
}

fn kind_of_alter_table(s: &AlterTableStmt) -> Option<ObjectKind> {
    use AlterTableType as T;
    if subcommands(s).any(|c| c == T::AtChangeOwner) {
        return Some(ObjectKind::Owner);
    }
    match subcommands(s).next()? {
        T::AtAddConstraint => Some(match added_constraint(s)? {
            ConstrType::ConstrPrimary | ConstrType::ConstrUnique | ConstrType::ConstrExclusion => ObjectKind::Constraint,
            ConstrType::ConstrForeign => ObjectKind::ForeignKey,
            _ => ObjectKind::CheckConstraint,
        }),
        T::AtEnableTrig
        | T::AtEnableAlwaysTrig
        | T::AtEnableReplicaTrig
        | T::AtDisableTrig
        | T::AtEnableTrigAll
        | T::AtDisableTrigAll
        | T::AtEnableTrigUser
        | T::AtDisableTrigUser => Some(ObjectKind::Trigger),
        T::AtEnableRule | T::AtEnableAlwaysRule | T::AtEnableReplicaRule | T::AtDisableRule => Some(ObjectKind::Rule),
        T::AtEnableRowSecurity | T::AtDisableRowSecurity | T::AtForceRowSecurity | T::AtNoForceRowSecurity => Some(ObjectKind::RowSecurity),
        _ => None,
    }
}

fn subcommands(s: &AlterTableStmt) -> impl Iterator<Item = AlterTableType> {
    s.cmds.iter().filter_map(|c| match &c.node {
        Some(NodeEnum::AlterTableCmd(c)) => Some(AlterTableType::try_from(c.subtype).unwrap_or(AlterTableType::Undefined)),
        _ => None,
    })
}

fn added_constraint(s: &AlterTableStmt) -> Option<ConstrType> {
    let Some(NodeEnum::AlterTableCmd(command)) = s.cmds.first()?.node.as_ref() else { return None };
    match command.def.as_ref()?.node.as_ref()? {
        NodeEnum::Constraint(c) => Some(ConstrType::try_from(c.contype).unwrap_or(ConstrType::Undefined)),
        _ => None,
    }
}

/// The kind of the object that a comment is on; `None` for one whose comments are made with it.
fn commented_kind(object_type: i32) -> Option<ObjectKind> {
    Some(match ObjectType::try_from(object_type).ok()? {
        ObjectType::ObjectExtension => ObjectKind::Extension,
        ObjectType::ObjectTrigger => ObjectKind::Trigger,
        ObjectType::ObjectPolicy => ObjectKind::Policy,
        ObjectType::ObjectRule => ObjectKind::Rule,
        ObjectType::ObjectTabconstraint => ObjectKind::Constraint,
        ObjectType::ObjectDomconstraint => ObjectKind::DomainConstraint,
        ObjectType::ObjectEventTrigger => ObjectKind::EventTrigger,
        ObjectType::ObjectPublication => ObjectKind::Publication,
        ObjectType::ObjectSubscription => ObjectKind::Subscription,
        _ => return None,
    })
}
