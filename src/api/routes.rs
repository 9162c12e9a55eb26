//! Every route of the API, once: the application serves them, and the OpenAPI document describes them.
//!
//! A server makes its application anew for each of its threads. The document, which is much larger than all that is served, is
//! therefore not collected on the way, as `utoipa_actix_web` would have it, but only where it is asked for ([`documented`]).

use actix_web::dev::HttpServiceFactory;
use actix_web::middleware::from_fn;
use actix_web::web;
use utoipa_actix_web::service_config::ServiceConfig;
use utoipa_actix_web::{OpenApiFactory, scope};

use super::kinds::{
    accounts, certificates, connectors, event_sinks, filters, identity_providers, mailbox_stores, recipient_policies,
    recipients, remote_domains, virtual_servers,
};
use super::{
    alerts, api_keys, audit, auth, backup, bulk, config, connector_test, directory, docs, domains, drain,
    event_sinks as sink_operations, events, explain, health, holds, imports, messages, queues, quotas, running,
    sessions, settings, steering, submit, suppressions, tls_reports, tracking, transfer, whoami,
};

/// Where routes are put.
trait Registry {
    /// Puts one there.
    fn service<F: HttpServiceFactory + OpenApiFactory + 'static>(&mut self, route: F) -> &mut Self;
}

impl Registry for web::ServiceConfig {
    fn service<F: HttpServiceFactory + OpenApiFactory + 'static>(&mut self, route: F) -> &mut Self {
        web::ServiceConfig::service(self, route)
    }
}

impl Registry for ServiceConfig<'_> {
    fn service<F: HttpServiceFactory + OpenApiFactory + 'static>(&mut self, route: F) -> &mut Self {
        ServiceConfig::service(self, route)
    }
}

/// All routes, to be served.
pub(super) fn served(config: &mut web::ServiceConfig) {
    config.service(web::scope("/api/v1").configure(v1).wrap(from_fn(auth::require_key)));
    open(config);
}

/// All routes, to be described.
pub(super) fn documented(config: &mut ServiceConfig<'_>) {
    config.service(scope::scope("/api/v1").configure(|config: &mut ServiceConfig<'_>| v1(config)));
    open(config);
}

/// What needs no key, or says itself what it needs.
fn open(config: &mut impl Registry) {
    config
        .service(health::livez)
        .service(health::readyz)
        .service(health::startupz)
        .service(health::metrics)
        .service(docs::openapi_json)
        .service(docs::docs)
        .service(docs::docs_file)
        .service(docs::start_page);
}

fn v1<R: Registry>(config: &mut R) {
    macro_rules! kinds {
        ($($kind:ident)+) => {
            $(config
                .service($kind::list)
                .service($kind::read)
                .service($kind::replace)
                .service($kind::change)
                .service($kind::remove);)+
        };
    }
    kinds!(virtual_servers recipient_policies recipients mailbox_stores connectors);
    kinds!(certificates accounts identity_providers filters remote_domains event_sinks);
    config
        .service(settings::get_settings)
        .service(settings::put_settings)
        .service(settings::patch_settings)
        .service(config::export_config)
        .service(config::apply_config)
        .service(config::list_config_revisions)
        .service(config::compare_config_revisions)
        .service(config::get_config_revision)
        .service(config::rollback_config)
        .service(directory::preview_addresses)
        .service(directory::import_recipients)
        .service(domains::list_domains)
        .service(domains::get_domain)
        .service(queues::list_queues)
        .service(queues::get_queue)
        .service(queues::freeze_queue)
        .service(queues::thaw_queue)
        .service(queues::retry_queue)
        .service(submit::send_message)
        .service(submit::send_messages)
        .service(messages::list_messages)
        .service(messages::get_message)
        .service(messages::list_message_events)
        .service(messages::freeze_message)
        .service(messages::thaw_message)
        .service(messages::retry_message)
        .service(messages::reroute_message)
        .service(messages::delete_message)
        .service(steering::resubmit_message)
        .service(steering::get_content)
        .service(steering::suspend_connector)
        .service(steering::resume_connector)
        .service(holds::list_holds)
        .service(holds::get_hold)
        .service(holds::create_hold)
        .service(holds::delete_hold)
        .service(transfer::export_queue)
        .service(transfer::import_queue)
        .service(explain::explain_message)
        .service(suppressions::list_suppressions)
        .service(suppressions::add_suppression)
        .service(suppressions::import_suppressions)
        .service(suppressions::export_suppressions)
        .service(suppressions::get_suppression)
        .service(suppressions::delete_suppression)
        .service(imports::import_mailroot)
        .service(imports::list_mailroot_imports)
        .service(imports::get_mailroot_import)
        .service(quotas::list_quotas)
        .service(quotas::reset_quotas)
        .service(bulk::bulk_action)
        .service(bulk::list_operations)
        .service(bulk::get_operation)
        .service(bulk::cancel_operation)
        .service(connector_test::test_connector)
        .service(tracking::search_tracking)
        .service(tracking::summarize_tracking)
        .service(tracking::whereabouts)
        .service(events::stream_events)
        .service(sink_operations::list_deliveries)
        .service(sink_operations::replay)
        .service(sessions::list_sessions)
        .service(sessions::end_sessions)
        .service(sessions::end_session)
        .service(running::pause)
        .service(running::resume)
        .service(running::stop)
        .service(running::start)
        .service(api_keys::list_api_keys)
        .service(api_keys::get_api_key)
        .service(api_keys::put_api_key)
        .service(api_keys::patch_api_key)
        .service(api_keys::delete_api_key)
        .service(api_keys::rotate_api_key)
        .service(audit::list_audit_log)
        .service(whoami::who_am_i)
        .service(alerts::list_alerts)
        .service(alerts::test_alerts)
        .service(drain::get_drain)
        .service(drain::begin_drain)
        .service(drain::end_drain)
        .service(backup::back_up)
        .service(tls_reports::list_tls_reports)
        .service(tls_reports::send_tls_reports);
}
