//! Who gets copies of reports.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_non_delivery_report_is_copied_and_nothing_else_is() {
    let f = Fixture::new(NextHop::Dead).await;
    let copies = "postmaster@copies.example";
    f.put(Collection::VirtualServers, "default", json!({"messages": {"ndrCopyTo": copies}})).await;
    f.send(&f.anna(), "u@dst.example", None).await;
    f.pass(20 * HOUR).await;
    assert_eq!(f.reports().len(), 1, "the delay, for the sender alone");
    f.dead.lock().unwrap().insert("dns:default:dst.example".to_owned());
    *f.next_hop.lock().unwrap() = NextHop::Takes;
    f.pass(30 * HOUR).await;
    assert_eq!((f.attempts_of(copies).len(), f.reports().len()), (1, 3), "the failure, and its copy");
    assert!(f.reports()[1..].iter().all(|report| report.contains("Action: failed\r\n")));
    // success is not copied
    f.send(&f.anna(), "v@far.example", Some(Notify::On { success: true, failure: false, delay: false })).await;
    f.pass(HOUR).await;
    assert_eq!((f.reports().len(), f.attempts_of(copies).len()), (4, 1));
    assert!(f.store.messages().is_empty(), "{:?}", f.queued());
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_is_refused_is_a_dead_letter_and_no_report_is_about_it() {
    let f = Fixture::new(NextHop::Refuses).await;
    f.put(Collection::VirtualServers, "default", json!({"messages": {"ndrCopyTo": "p@copies.example"}})).await;
    f.send(&f.anna(), "u@dst.example", None).await;
    f.pass(HOUR).await;
    assert_eq!(f.reports().len(), 2);
    assert_eq!(f.attempts_of("p@copies.example").len(), 1);
    assert_eq!(f.queued(), [("deadLetter".to_owned(), 1)]);
    // who is told anyway gets it once
    let anna = f.anna();
    f.put(Collection::VirtualServers, "default", json!({"messages": {"ndrCopyTo": anna}})).await;
    f.send(&f.anna(), "u@dst.example", None).await;
    f.pass(HOUR).await;
    assert_eq!(f.reports().len(), 3);
}
