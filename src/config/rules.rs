//! `[[auth.rules]]`: who may come from where, to what, and how that is checked. What `pg_hba.conf` is to
//! PostgreSQL: in order, and the first rule that matches decides.
//!
//! Matching is pure; it sees only what is known before anybody has proved anything.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use regex::{Regex, RegexBuilder};
use toml::de::DeValue;

use super::error::{Complaint, quoted};
use super::schema::{Auth, AuthMethod};
use super::values::text;

/// Bound on the memory of one compiled pattern, in bytes.
const PATTERN_BYTES: usize = 1 << 20;

/// One of `[[auth.rules]]`. All of its conditions must hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Any of these. Default all.
    pub databases: Vec<DatabasePattern>,
    /// Any of these. Default all.
    pub users: Vec<NamePattern>,
    /// Any of these. Default all.
    pub addresses: Vec<AddressPattern>,
    /// Default any.
    pub tls: RuleTls,
    /// Default `auth.method`.
    pub method: AuthMethod,
}

/// What `auth.rules.tls` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleTls {
    /// With TLS or without.
    Any,
    /// Only connections with TLS (`hostssl`).
    Required,
    /// Only connections without (`hostnossl`).
    Off,
}

/// A name, or several.
#[derive(Debug, Clone, PartialEq)]
pub enum NamePattern {
    /// `"all"`
    All,
    /// This very name.
    Name(String),
    /// `"/regular expression"`, found anywhere in the name unless it is anchored.
    Pattern(Pattern),
}

/// A database, or several. Physical replication goes to none, and only [`DatabasePattern::Replication`] is for it.
#[derive(Debug, Clone, PartialEq)]
pub enum DatabasePattern {
    /// By name.
    Named(NamePattern),
    /// `"sameuser"`: the one that has the user's name.
    SameUser,
    /// `"replication"`: connections for physical replication.
    Replication,
}

/// Where a client may come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressPattern {
    /// `"all"`
    All,
    /// `"loopback"`: this machine, 127.0.0.0/8 and ::1.
    Loopback,
    /// `"10.0.0.0/8"`, `"fd00::/8"`; an address alone is itself.
    Network(Network),
}

/// The addresses that begin with the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

/// A regular expression. Two are the same when their texts are.
#[derive(Clone)]
pub struct Pattern(Regex);

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

/// What is known of a client that wants to log in.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// As whom.
    pub user: &'a str,
    /// To what; `None` for physical replication.
    pub database: Option<&'a str>,
    /// From where.
    pub address: IpAddr,
    /// Over TLS.
    pub is_encrypted: bool,
}

impl Auth {
    /// How this client is to be checked; `None` where no rule is for it. Without rules everybody is checked by
    /// `auth.method`.
    pub fn method_for(&self, candidate: Candidate<'_>) -> Option<AuthMethod> {
        if self.rules.is_empty() {
            return Some(self.method);
        }
        self.rules.iter().find(|rule| rule.matches(candidate)).map(|rule| rule.method)
    }
}

impl Rule {
    fn matches(&self, candidate: Candidate<'_>) -> bool {
        let tls = match self.tls {
            RuleTls::Any => true,
            RuleTls::Required => candidate.is_encrypted,
            RuleTls::Off => !candidate.is_encrypted,
        };
        let address = candidate.address.to_canonical();
        tls && self.addresses.iter().any(|pattern| pattern.matches(address))
            && self.users.iter().any(|pattern| pattern.matches(candidate.user))
            && self.databases.iter().any(|pattern| pattern.matches(candidate))
    }

    /// Whether only this machine's own clients can match.
    pub(super) fn is_loopback_only(&self) -> bool {
        self.addresses.iter().all(|pattern| match pattern {
            AddressPattern::All => false,
            AddressPattern::Loopback => true,
            AddressPattern::Network(network) => {
                let least = if network.address.is_ipv4() { 8 } else { 128 };
                network.address.is_loopback() && network.bits >= least
            }
        })
    }
}

impl NamePattern {
    fn matches(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Name(own) => own == name,
            Self::Pattern(Pattern(regex)) => regex.is_match(name),
        }
    }
}

impl DatabasePattern {
    fn matches(&self, candidate: Candidate<'_>) -> bool {
        match (self, candidate.database) {
            (Self::Replication, database) => database.is_none(),
            (_, None) => false,
            (Self::SameUser, Some(database)) => database == candidate.user,
            (Self::Named(pattern), Some(database)) => pattern.matches(database),
        }
    }
}

impl AddressPattern {
    fn matches(self, address: IpAddr) -> bool {
        match self {
            Self::All => true,
            Self::Loopback => address.is_loopback(),
            Self::Network(network) => network.contains(address),
        }
    }
}

impl Network {
    fn contains(self, address: IpAddr) -> bool {
        let beyond = |width: u8| u32::from(width - self.bits);
        match (self.address, address) {
            // Shifting by the whole width is one shift too far.
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (own.to_bits() ^ other.to_bits()).checked_shr(beyond(32)).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                (own.to_bits() ^ other.to_bits()).checked_shr(beyond(128)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl Network {
    fn parse(text: &str) -> Result<Self, Complaint> {
        const FORM: &str =
            "\"all\", \"loopback\", or an address with the number of its leading bits, such as \"10.0.0.0/8\"";
        let wrong = |what: &str| Complaint::new(format!("{} {what}", quoted(text))).expected(FORM);
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong("is not a network"))?;
        if matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
            return Err(wrong("is an IPv4 address in IPv6 clothes: write it as IPv4"));
        }
        let width = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => width,
            Some(bits) if bits.bytes().all(|byte| byte.is_ascii_digit()) => {
                bits.parse().ok().filter(|bits| *bits <= width).ok_or_else(|| wrong("has more bits than an address"))?
            }
            Some(_) => return Err(wrong("is not a network")),
        };
        let network = Self { address, bits };
        if network.first() != address {
            let meant = format!("{}/{bits}", network.first());
            return Err(wrong("has bits set beyond those that count").suggest(Some(meant)));
        }
        Ok(network)
    }

    fn first(self) -> IpAddr {
        match self.address {
            IpAddr::V4(own) => {
                let mask = u32::MAX.checked_shl(u32::from(32 - self.bits)).unwrap_or(0);
                IpAddr::V4((own.to_bits() & mask).into())
            }
            IpAddr::V6(own) => {
                let mask = u128::MAX.checked_shl(u32::from(128 - self.bits)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(own.to_bits() & mask))
            }
        }
    }
}

const USER_FORM: &str = "\"all\", a role's name, or \"/\" and a regular expression";
const DATABASE_FORM: &str =
    "\"all\", \"sameuser\", \"replication\", a database's name, or \"/\" and a regular expression";

/// One of `auth.rules.users`.
pub(super) fn user_pattern(value: &DeValue<'_>) -> Result<NamePattern, Complaint> {
    let text = text(value, USER_FORM)?;
    if text.starts_with('+') {
        let problem = format!("{}: membership in roles is not known to pgsluice", quoted(text));
        return Err(Complaint::new(problem).expected("the names of the members"));
    }
    name_pattern(text, USER_FORM)
}

/// One of `auth.rules.databases`.
pub(super) fn database_pattern(value: &DeValue<'_>) -> Result<DatabasePattern, Complaint> {
    match text(value, DATABASE_FORM)? {
        "sameuser" => Ok(DatabasePattern::SameUser),
        "replication" => Ok(DatabasePattern::Replication),
        keyword @ ("samerole" | "samegroup") => {
            let problem = format!("{}: membership in roles is not known to pgsluice", quoted(keyword));
            Err(Complaint::new(problem).expected(DATABASE_FORM))
        }
        text => name_pattern(text, DATABASE_FORM).map(DatabasePattern::Named),
    }
}

fn name_pattern(text: &str, form: &str) -> Result<NamePattern, Complaint> {
    match (text, text.strip_prefix('/')) {
        ("", _) => Err(Complaint::new("is empty").expected(form)),
        ("all", _) => Ok(NamePattern::All),
        (_, None) => Ok(NamePattern::Name(text.to_owned())),
        (_, Some(pattern)) => match RegexBuilder::new(pattern).size_limit(PATTERN_BYTES).build() {
            Ok(regex) => Ok(NamePattern::Pattern(Pattern(regex))),
            Err(regex::Error::CompiledTooBig(_)) => {
                Err(Complaint::new(format!("{} is too large a regular expression", quoted(text))))
            }
            Err(_) => Err(Complaint::new(format!("{} is not a regular expression", quoted(pattern))).expected(form)),
        },
    }
}

/// One of `auth.rules.addresses`.
pub(super) fn address_pattern(value: &DeValue<'_>) -> Result<AddressPattern, Complaint> {
    match text(value, "\"all\", \"loopback\", or a network such as \"10.0.0.0/8\"")? {
        "all" => Ok(AddressPattern::All),
        "loopback" => Ok(AddressPattern::Loopback),
        text => Network::parse(text).map(AddressPattern::Network),
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Name(name) => f.write_str(name),
            Self::Pattern(Pattern(regex)) => write!(f, "/{}", regex.as_str()),
        }
    }
}

impl fmt::Display for DatabasePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(pattern) => pattern.fmt(f),
            Self::SameUser => f.write_str("sameuser"),
            Self::Replication => f.write_str("replication"),
        }
    }
}

impl fmt::Display for AddressPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Loopback => f.write_str("loopback"),
            Self::Network(Network { address, bits }) => write!(f, "{address}/{bits}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Config;
    use super::*;

    fn auth(rules: &str) -> Auth {
        let text = format!("{rules}\n[[auth.users]]\nname = 'u'\npassword = 'p'\n[[shards]]\nnodes = ['h:1']\n");
        Config::parse(&text, Path::new(""), "test").unwrap_or_else(|errors| panic!("{errors}\n{text}")).auth
    }

    fn from(address: &str, user: &'static str, database: &'static str) -> Candidate<'static> {
        let database = (database != "(replication)").then_some(database);
        Candidate { user, database, address: address.parse().expect(address), is_encrypted: false }
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let auth = auth(
            r#"
            [[auth.rules]]
            users = ["mallory", "/^tmp_"]
            method = "reject"
            [[auth.rules]]
            databases = ["shop", "/^log_\\d+$", "sameuser"]
            addresses = ["10.1.0.0/16", "fd00::/8", "192.0.2.7"]
            [[auth.rules]]
            databases = ["replication"]
            users = ["standby"]
            [[auth.rules]]
            addresses = ["loopback"]
            method = "trust"
            "#,
        );
        let scram = Some(AuthMethod::ScramSha256);
        for (candidate, method) in [
            (from("10.1.2.3", "ann", "shop"), scram),
            (from("::ffff:10.1.2.3", "ann", "shop"), scram),
            (from("10.2.0.0", "ann", "shop"), None),
            (from("fdff::1", "ann", "log_17"), scram),
            (from("fe80::1", "ann", "log_17"), None),
            (from("192.0.2.7", "ann", "ann"), scram),
            (from("192.0.2.8", "ann", "ann"), None),
            (from("10.1.2.3", "ann", "log_x"), None),
            (from("10.1.2.3", "mallory", "shop"), Some(AuthMethod::Reject)),
            (from("127.0.0.1", "tmp_1", "shop"), Some(AuthMethod::Reject)),
            (from("127.0.0.1", "ann", "other"), Some(AuthMethod::Trust)),
            (from("::1", "ann", "other"), Some(AuthMethod::Trust)),
            (from("10.9.9.9", "standby", "(replication)"), scram),
            (from("10.9.9.9", "standby", "replication"), None),
            (from("127.0.0.1", "ann", "(replication)"), None),
        ] {
            assert_eq!(auth.method_for(candidate), method, "{candidate:?}");
        }
    }

    #[test]
    fn encryption_is_a_condition_and_without_rules_there_is_one_method() {
        let with = auth("[[auth.rules]]\ntls = 'required'\n[[auth.rules]]\ntls = 'off'\nmethod = 'reject'\n");
        let plain = from("192.0.2.1", "ann", "shop");
        assert_eq!(with.method_for(plain), Some(AuthMethod::Reject));
        assert_eq!(with.method_for(Candidate { is_encrypted: true, ..plain }), Some(AuthMethod::ScramSha256));
        assert_eq!(auth("").method_for(plain), Some(AuthMethod::ScramSha256));
        assert_eq!(auth("auth.method = 'trust'").method_for(plain), Some(AuthMethod::Trust));
    }

    #[test]
    fn networks() {
        for (text, inside, outside) in [
            ("0.0.0.0/0", "255.1.2.3", "::1"),
            ("::/0", "fd00::1", "1.2.3.4"),
            ("10.0.0.0/8", "10.255.255.255", "11.0.0.0"),
            ("10.0.0.1/32", "10.0.0.1", "10.0.0.2"),
            ("10.0.0.128/25", "10.0.0.200", "10.0.0.127"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("::1", "::1", "::2"),
        ] {
            let network = Network::parse(text).map_err(|complaint| complaint.problem).expect(text);
            assert!(network.contains(inside.parse().unwrap()), "{text} {inside}");
            assert!(!network.contains(outside.parse().unwrap()), "{text} {outside}");
        }
        for (text, problem) in [
            ("10.0.0.1/8", "beyond"),
            ("10.0.0.0/33", "more bits"),
            ("::/129", "more bits"),
            ("::/999", "more bits"),
            ("10.0.0.0/+8", "not a network"),
            ("10.0.0.0/", "more bits"),
            ("localhost", "not a network"),
            ("", "not a network"),
            ("::ffff:10.0.0.0/104", "IPv6 clothes"),
        ] {
            let complaint = Network::parse(text).expect_err(text);
            assert!(complaint.problem.contains(problem), "{text}: {}", complaint.problem);
        }
    }
}
