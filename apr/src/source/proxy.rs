//! Which proxy a request goes through, as curl reads the environment: the variable of the address's own scheme, then
//! ALL_PROXY, and NO_PROXY before both. Every request is a tunnel (CONNECT), so that no proxy sees a path or a token.
//!
//! A variable that cannot be honoured is refused by its name. Its value may hold a password and is never told.

use std::net::IpAddr;

use engine::knobs::{self, Knob};
use engine::{Error, Kind, Result};

use super::name::Address;

/// What the environment says of proxies.
pub struct Proxies {
    http: Option<Proxy>,
    https: Option<Proxy>,
    direct: String,
}

/// A proxy, and the variable that names it.
#[derive(Clone)]
pub struct Proxy {
    /// For the library.
    pub to: ureq::Proxy,
    /// For people: host and port, and which variable says so.
    pub shown: String,
}

impl Proxies {
    /// As the environment says.
    pub fn read() -> Result<Proxies> {
        let first = |own: &Knob| match [own, &knobs::ALL_PROXY].into_iter().find_map(knobs::read_either_case) {
            Some((name, value)) => Proxy::parse(&name, &value).map(Some),
            None => Ok(None),
        };
        let direct = knobs::read_either_case(&knobs::NO_PROXY).map(|(_, list)| list).unwrap_or_default();
        Ok(Proxies { http: first(&knobs::HTTP_PROXY)?, https: first(&knobs::HTTPS_PROXY)?, direct })
    }

    /// The one for this address, if it is to be reached through one.
    pub fn of(&self, address: &Address) -> Option<&Proxy> {
        let proxy = if address.is_private() { &self.https } else { &self.http };
        proxy.as_ref().filter(|_| !listed(&self.direct, address))
    }
}

impl Proxy {
    fn parse(name: &str, value: &str) -> Result<Proxy> {
        let refused = |kind, why: &str| Error::new(kind, format!("{name} {why}")).hint("http://HOST:PORT is one");
        if let Some((scheme, _)) = value.split_once("://")
            && !["http", "https"].contains(&scheme.to_ascii_lowercase().as_str())
        {
            return Err(refused(Kind::Unsupported, "names a proxy that is neither http nor https"));
        }
        let to = ureq::Proxy::new(value).map_err(|_| refused(Kind::Usage, "is no address of a proxy"))?;
        let shown = format!("{}:{}, {name}", to.host(), to.port());
        Ok(Proxy { to, shown })
    }
}

/// Whether a list of names, addresses, networks (10.0.0.0/8) and `*` has this host. A name stands for what is below it.
fn listed(list: &str, address: &Address) -> bool {
    let host = address.host();
    let port = address.port();
    list.split([',', ' ']).map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| {
        let entry = entry.to_ascii_lowercase();
        if entry == "*" {
            return true;
        }
        if let Some(inside) = network(&entry, host) {
            return inside;
        }
        // A port, but not a part of an IPv6 address.
        let (name, at) = match entry.rsplit_once(':') {
            Some((name, at)) if !name.contains(':') || name.ends_with(']') => (name, at.parse::<u16>().ok()),
            _ => (entry.as_str(), None),
        };
        let name = name.trim_start_matches("*.").trim_start_matches('.').trim_matches(['[', ']']);
        let below = host.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        !name.is_empty() && below && at.is_none_or(|at| at == port)
    })
}

/// Whether a host is an address of this network; nothing where the entry is no network.
fn network(entry: &str, host: &str) -> Option<bool> {
    let (net, bits) = entry.split_once('/')?;
    let bits: u32 = bits.parse().ok()?;
    let inside = match (net.parse().ok()?, host.parse()) {
        (IpAddr::V4(net), Ok(IpAddr::V4(host))) if bits <= 32 => {
            u64::from(u32::from(net) ^ u32::from(host)) >> (32 - bits) == 0
        }
        (IpAddr::V6(net), Ok(IpAddr::V6(host))) if bits <= 128 => {
            (u128::from(net) ^ u128::from(host)).checked_shr(128 - bits).unwrap_or(0) == 0
        }
        _ => false,
    };
    Some(inside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_listed_is_asked_directly() {
        let has = |list: &str, address: &str| listed(list, &Address::parse(address).unwrap());
        for (list, address, want) in [
            ("", "http://a.example/", false),
            ("*", "http://a.example/", true),
            ("b.example, a.example", "https://a.example/x", true),
            ("example", "http://a.example/", true),
            (".example", "http://a.example/", true),
            ("*.example", "http://a.example/", true),
            ("A.Example", "http://a.example/", true),
            ("ample", "http://a.example/", false),
            ("a.example.org", "http://a.example/", false),
            ("localhost:80 a.example:8080", "http://a.example:8080/", true),
            ("a.example:8080", "http://a.example/", false),
            ("a.example:443", "https://a.example/", true),
            ("127.0.0.1", "http://127.0.0.1:9/", true),
            ("127.0.0.0/8", "http://127.3.2.1/", true),
            ("127.0.0.0/8", "http://128.3.2.1/", false),
            ("0.0.0.0/0", "http://128.3.2.1/", true),
            ("10.0.0.0/33", "http://10.0.0.0/", false),
            ("fe80::/10", "http://[fe80::1]/", true),
            ("::/0", "http://[fe80::1]/", true),
            ("::1", "http://[::1]/", true),
            ("[::1]:80", "http://[::1]/", true),
            (", ,.,:", "http://a.example/", false),
        ] {
            assert_eq!(has(list, address), want, "{list} for {address}");
        }
    }

    #[test]
    fn a_password_is_never_told() {
        for (value, kind) in [
            ("socks5://me:secret@proxy:1080", Kind::Unsupported),
            ("http://me:secret@", Kind::Usage),
            ("http://me:secret@pro xy", Kind::Usage),
        ] {
            let e = Proxy::parse("HTTPS_PROXY", value).err().unwrap();
            assert_eq!(e.kind, kind, "{value}");
            assert!(e.what.starts_with("HTTPS_PROXY ") && !e.to_string().contains("secret"), "{e}");
        }
        assert_eq!(Proxy::parse("http_proxy", "me:secret@proxy:81").unwrap().shown, "proxy:81, http_proxy");
    }
}
