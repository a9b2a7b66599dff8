//! A destination that has outgrown one machine: its partitions are foreign tables on other servers.

mod support;

use support::{one, run_dir, Cluster, Scene};

#[test]
fn an_inserter_and_an_updater_fill_partitions_on_other_servers() {
    let scene = Scene::new("sharded", 1000);
    scene.owner().batch_execute("ALTER TABLE app.t ADD rev bigserial; ANALYZE app.t").unwrap();
    let shards: Vec<Cluster> =
        ["shard1", "shard2"].iter().map(|name| Cluster::start(&run_dir().join(name), "")).collect();
    let mut superuser = scene.destination_superuser();
    superuser
        .batch_execute("CREATE EXTENSION postgres_fdw; GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO dba")
        .unwrap();
    let mut dba = scene.dba();
    for table in ["i", "u"] {
        dba.batch_execute(&format!(
            "CREATE TABLE app.{table} (id int NOT NULL, v text NOT NULL, rev bigint) PARTITION BY HASH (id)"
        ))
        .unwrap();
    }
    for (number, shard) in shards.iter().enumerate() {
        shard
            .superuser("postgres")
            .batch_execute(
                "CREATE ROLE shard LOGIN PASSWORD 'shard secret'; GRANT CREATE ON SCHEMA public TO shard; SET ROLE shard;
                 CREATE TABLE i (id int NOT NULL, v text NOT NULL, rev bigint);
                 CREATE TABLE u (id int PRIMARY KEY, v text NOT NULL, rev bigint)",
            )
            .unwrap();
        let port = shard.port;
        dba.batch_execute(&format!(
            "CREATE SERVER shard{number} FOREIGN DATA WRAPPER postgres_fdw
                 OPTIONS (host '127.0.0.1', port '{port}', dbname 'postgres', batch_size '1000');
             CREATE USER MAPPING FOR dba SERVER shard{number} OPTIONS (user 'shard', password 'shard secret');"
        ))
        .unwrap();
        for table in ["i", "u"] {
            dba.batch_execute(&format!(
                "CREATE FOREIGN TABLE app.{table}{number} PARTITION OF app.{table} FOR VALUES WITH (MODULUS 2, REMAINDER {number})
                     SERVER shard{number} OPTIONS (schema_name 'public', table_name '{table}')"
            ))
            .unwrap();
        }
    }
    dba.batch_execute(
        "SELECT mimeo.inserter_maker('app.t', 'serial', 'id', 1, p_dest_table := 'app.i');
         SELECT mimeo.updater_maker('app.t', 'serial', 'rev', 1, p_dest_table := 'app.u');
         SELECT mimeo.refresh_inserter('app.i', p_repull := true); SELECT mimeo.refresh_updater('app.u', p_repull := true)",
    )
    .unwrap();
    scene
        .owner()
        .batch_execute(
            "INSERT INTO app.t (id, v) SELECT i, 'new' FROM generate_series(1001, 2000) i;
             UPDATE app.t SET v = 'changed', rev = DEFAULT WHERE id <= 100;
             INSERT INTO app.t (id, v) VALUES (9999, 'the greatest')",
        )
        .unwrap();
    dba.batch_execute("SELECT mimeo.refresh_inserter('app.i'); SELECT mimeo.refresh_updater('app.u')").unwrap();
    assert_eq!(one::<i64>(&mut dba, "SELECT count(*) FROM app.i WHERE v = 'new'"), 1000);
    assert_eq!(one::<i64>(&mut dba, "SELECT count(*) - count(DISTINCT id) FROM app.i"), 0);
    assert_eq!(one::<i64>(&mut dba, "SELECT count(*) FROM app.u WHERE v = 'changed'"), 100);
    assert_eq!(one::<i64>(&mut dba, "SELECT count(*) FROM app.u"), 2000);
    for shard in &shards {
        let rows: i64 = one(&mut shard.superuser("postgres"), "SELECT count(*) FROM i WHERE v = 'new'");
        assert!(rows > 300, "each shard holds its part: {rows}");
    }
}
