//! Who answers for what a connection uses: the files and the identity of the destination's server are a superuser's to give.

mod support;

use postgres::Client;
use support::{message, pair, sqlstate, Scene, REFRESH};

fn refresh(dba: &mut Client) -> String {
    sqlstate(&dba.batch_execute(REFRESH))
}

#[test]
fn a_parameter_that_uses_this_server_is_a_superusers_to_give() {
    let scene = Scene::with_snapshot("vouched_parameters", 10);
    let (mut dba, mut superuser) = (scene.dba(), scene.destination_superuser());
    let (port, database) = (pair().source.port, &scene.database);
    dba.batch_execute("UPDATE mimeo.dblink_mapping_mimeo SET data_source = data_source || ' passfile=/nowhere'")
        .unwrap();
    let outcome = dba.batch_execute(REFRESH);
    assert_eq!(sqlstate(&outcome), "42501");
    assert_eq!(
        message(&outcome),
        "data source 1 cannot be used: only a superuser may give it the connection parameter \"passfile\""
    );
    superuser.batch_execute("UPDATE mimeo.dblink_mapping_mimeo SET password_required = false").unwrap();
    assert_eq!(refresh(&mut dba), "00000", "a superuser has answered for the row");

    superuser
        .batch_execute("CREATE EXTENSION postgres_fdw; GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO dba")
        .unwrap();
    dba.batch_execute(&format!(
        "CREATE SERVER theirs FOREIGN DATA WRAPPER postgres_fdw
             OPTIONS (host '127.0.0.1', port '{port}', dbname '{database}', passfile '/nowhere', fetch_size '17');
         CREATE USER MAPPING FOR dba SERVER theirs OPTIONS (user 'reader', password 'reader secret')"
    ))
    .unwrap();
    superuser
        .batch_execute("UPDATE mimeo.dblink_mapping_mimeo SET data_source = 'theirs', username = NULL, pwd = NULL")
        .unwrap();
    assert_eq!(refresh(&mut dba), "42501", "not for the options of somebody else's server");
    superuser
        .batch_execute("ALTER SERVER theirs OWNER TO postgres; GRANT USAGE ON FOREIGN SERVER theirs TO dba")
        .unwrap();
    assert_eq!(refresh(&mut dba), "00000", "but for those of a superuser's");
}

#[test]
fn a_user_mapping_waives_the_password_only_where_none_but_a_superuser_can_write_that() {
    let scene = Scene::with_snapshot("waived_password", 10);
    let (mut dba, mut superuser) = (scene.dba(), scene.destination_superuser());
    superuser
        .batch_execute(
            "CREATE EXTENSION postgres_fdw; CREATE FOREIGN DATA WRAPPER anything;
             GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw, anything TO dba",
        )
        .unwrap();
    // The source trusts who comes through its socket.
    let place =
        format!("host '{}', port '{}', dbname '{}'", pair().source.dir().display(), pair().source.port, scene.database);
    dba.batch_execute(&format!(
        "CREATE SERVER checked FOREIGN DATA WRAPPER postgres_fdw OPTIONS ({place});
         CREATE SERVER unchecked FOREIGN DATA WRAPPER anything OPTIONS ({place}, password_required 'false');
         CREATE USER MAPPING FOR dba SERVER checked OPTIONS (user 'postgres');
         CREATE USER MAPPING FOR dba SERVER unchecked OPTIONS (user 'postgres', password_required 'false');
         UPDATE mimeo.dblink_mapping_mimeo SET data_source = 'unchecked', username = NULL, pwd = NULL"
    ))
    .unwrap();
    assert_eq!(refresh(&mut dba), "2F003", "anybody could have written that");
    dba.batch_execute("UPDATE mimeo.dblink_mapping_mimeo SET data_source = 'checked'").unwrap();
    assert_eq!(refresh(&mut dba), "2F003");
    superuser
        .batch_execute("ALTER USER MAPPING FOR dba SERVER checked OPTIONS (ADD password_required 'false')")
        .unwrap();
    assert_eq!(refresh(&mut dba), "00000");
}
