use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::net::clock::ManualClock;
use crate::net::resolver::{Mx, ResolveError};

#[test]
fn policies() {
    let good = "version: STSv1\r\nmode: enforce\r\nmx: mail.example.com\r\nmx: *.example.net\r\nmax_age: 604800\r\n";
    let policy = Policy::parse(good).unwrap();
    assert_eq!((policy.mode, policy.max_age), (Mode::Enforce, Duration::from_secs(604_800)));
    assert_eq!(policy.lines().join("\r\n") + "\r\n", good, "it is written as it was read");
    for (host, named) in [
        ("mail.example.com", true),
        ("MAIL.example.com.", true),
        ("a.example.net", true),
        ("example.net", false),
        ("a.b.example.net", false),
        ("x.mail.example.com", false),
        ("mail.example.com.evil.test", false),
        (".example.net", false),
    ] {
        assert_eq!(policy.names(host), named, "{host}");
    }
    assert_eq!(Policy::parse("version:STSv1\nmode:none\nmax_age:0").unwrap().mode, Mode::None);
    let twice =
        Policy::parse("version: STSv1\nmode: testing\nmode: enforce\nmx: a.example\nmax_age: 9\nnew: x\n").unwrap();
    assert_eq!(twice.mode, Mode::Testing, "the first of two counts, what is not known does not");
    assert_eq!(Policy::parse(&good.replace("604800", "9999999999")).unwrap().max_age.as_secs(), MOST_AGE);
    for bad in [
        "",
        "<html></html>",
        "mode: enforce\nmx: a.example\nmax_age: 1",
        "version: STSv2\nmode: enforce\nmx: a.example\nmax_age: 1",
        "version: STSv1\nmode: strict\nmx: a.example\nmax_age: 1",
        "version: STSv1\nmode: enforce\nmax_age: 1",
        "version: STSv1\nmode: enforce\nmx: a.example",
        "version: STSv1\nmode: enforce\nmx: a.example\nmax_age: -1",
        "version: STSv1\nmode: enforce\nmx: a.example\nmax_age: 99999999999",
    ] {
        assert!(Policy::parse(bad).is_err(), "{bad}");
    }
    assert!(Policy::parse(&format!("{good}{}", "mx: a.example\n".repeat(MOST_HOSTS))).is_err());
}

#[test]
fn ids() {
    let id = |records: &[&str]| policy_id(&records.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
    for good in ["v=STSv1; id=20160831085700Z;", "v=STSv1;id=20160831085700Z", "v=STSv1 ; ext=x; id=20160831085700Z"] {
        assert_eq!(id(&[good]).as_deref(), Some("20160831085700Z"), "{good}");
        assert_eq!(id(&["v=spf1 -all", good]).as_deref(), Some("20160831085700Z"));
        assert_eq!(id(&[good, good]), None, "two are none");
    }
    for bad in ["", "v=STSv1", "v=STSv1;", "v=STSv12; id=1", "id=1; v=STSv1;", "v=STSv1; id=;", "v=STSv1; id=a-b;"] {
        assert_eq!(id(&[bad]), None, "{bad}");
    }
    assert_eq!(id(&[&format!("v=STSv1; id={};", "a".repeat(33))]), None);
}

/// DNS that has one TXT record, and a host that has one policy.
#[derive(Debug, Default)]
struct Domain {
    id: Mutex<Option<&'static str>>,
    policy: Mutex<Option<&'static str>>,
    asked: AtomicUsize,
}

#[async_trait]
impl Resolver for Domain {
    async fn mx(&self, _: &str) -> Result<Vec<Mx>, ResolveError> {
        Err(ResolveError::NoRecords)
    }

    async fn addresses(&self, _: &str) -> Result<Vec<std::net::IpAddr>, ResolveError> {
        Err(ResolveError::NoRecords)
    }

    async fn names(&self, _: std::net::IpAddr) -> Result<Vec<String>, ResolveError> {
        Err(ResolveError::NoRecords)
    }

    async fn texts(&self, name: &str) -> Result<Vec<String>, ResolveError> {
        assert_eq!(name, "_mta-sts.d.example");
        let id = *self.id.lock().unwrap();
        id.map(|id| vec![format!("v=STSv1; id={id};")]).ok_or(ResolveError::TryLater("SERVFAIL".into()))
    }
}

#[async_trait]
impl GetPolicy for Domain {
    async fn get(&self, domain: &str, _: &dyn Resolver) -> Result<String, NotHad> {
        assert_eq!(domain, "d.example");
        self.asked.fetch_add(1, Ordering::Relaxed);
        let policy = *self.policy.lock().unwrap();
        policy.map(str::to_owned).ok_or_else(|| "unreachable".to_owned().into())
    }
}

/// A store in memory.
#[derive(Default)]
struct Memory(Mutex<HashMap<String, Vec<u8>>>);

#[async_trait]
impl Keep for Memory {
    fn all(&self) -> Vec<(String, Vec<u8>)> {
        self.0.lock().unwrap().clone().into_iter().collect()
    }

    async fn keep(&self, domain: &str, policy: Option<Vec<u8>>) {
        let mut all = self.0.lock().unwrap();
        match policy {
            Some(policy) => all.insert(domain.to_owned(), policy),
            None => all.remove(domain),
        };
    }
}

const ENFORCE: &str = "version: STSv1\nmode: enforce\nmx: a.example\nmax_age: 86400\n";
const TESTING: &str = "version: STSv1\nmode: testing\nmx: a.example\nmax_age: 86400\n";

#[tokio::test(start_paused = true)]
async fn what_was_learned_holds_until_it_is_over_or_another_is_there() {
    let domain = Arc::new(Domain::default());
    let clock = Arc::new(ManualClock::new(0));
    let policies = Policies::new(clock.clone(), domain.clone(), Arc::<Memory>::default());
    let set = |id, policy| (*domain.id.lock().unwrap(), *domain.policy.lock().unwrap()) = (id, policy);
    let now = || async { policies.of("D.example.", &*domain).await.policy.map(|policy| policy.mode) };
    let fault = || async { policies.of("d.example", &*domain).await.fault };
    let asked = || domain.asked.load(Ordering::Relaxed);

    assert_eq!((now().await, asked()), (None, 0), "no record, no question");
    set(Some("1"), None);
    assert_eq!((now().await, now().await, asked()), (None, None, 1), "what cannot be had rests");
    assert_eq!(fault().await, Some(NotHad::Fetch("unreachable".to_owned())));
    clock.advance(REST);
    set(Some("1"), Some("<html>"));
    assert_eq!((now().await, asked()), (None, 2));
    assert!(matches!(fault().await, Some(NotHad::Invalid(_))));
    set(None, None);
    assert_eq!(fault().await, None, "a domain that promises nothing breaks nothing");
    set(Some("1"), Some("<html>"));
    clock.advance(REST);
    set(Some("1"), Some(ENFORCE));
    assert_eq!((now().await, now().await, asked()), (Some(Mode::Enforce), Some(Mode::Enforce), 3));

    set(Some("2"), None);
    assert_eq!((now().await, asked()), (Some(Mode::Enforce), 4), "another that cannot be had changes nothing");
    assert_eq!(fault().await, None, "what is remembered holds");
    set(None, None);
    assert_eq!((now().await, asked()), (Some(Mode::Enforce), 4), "nor does DNS that fails");
    set(Some("3"), Some(TESTING));
    assert_eq!((now().await, asked()), (Some(Mode::Testing), 5), "another one, at once");

    clock.advance(Duration::from_secs(43_200));
    assert_eq!((now().await, asked()), (Some(Mode::Testing), 6), "at half its life it is got again");
    set(Some("3"), None);
    clock.advance(Duration::from_secs(86_399));
    assert_eq!((now().await, asked()), (Some(Mode::Testing), 7));
    clock.advance(Duration::from_secs(1));
    assert_eq!(now().await, None, "its life is over");
}

#[tokio::test(start_paused = true)]
async fn a_restart_forgets_nothing() {
    let domain = Arc::new(Domain::default());
    let clock = Arc::new(ManualClock::new(1_700_000_000_000));
    let memory = Arc::new(Memory::default());
    let start = || Policies::new(clock.clone(), domain.clone(), memory.clone());
    let mode = async |policies: &Policies| policies.of("d.example", &*domain).await.policy.map(|policy| policy.mode);
    let set = |id, policy| (*domain.id.lock().unwrap(), *domain.policy.lock().unwrap()) = (id, policy);

    set(Some("1"), Some(ENFORCE));
    assert_eq!(mode(&start()).await, Some(Mode::Enforce));
    set(None, None);
    clock.advance(Duration::from_secs(86_399));
    assert_eq!(mode(&start()).await, Some(Mode::Enforce), "its life goes on where it was");
    let again = start();
    clock.advance(Duration::from_secs(1));
    assert_eq!((mode(&again).await, mode(&start()).await), (None, None));

    set(Some("2"), Some("version: STSv1\nmode: none\nmax_age: 86400\n"));
    assert_eq!(mode(&again).await, Some(Mode::None));
    assert!(memory.all().is_empty(), "what is taken back is not kept");
    memory.keep("d.example", Some(b"what nobody wrote".to_vec())).await;
    assert_eq!(mode(&start()).await, Some(Mode::None), "what cannot be read is none");
}
