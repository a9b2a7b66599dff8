//! docs/permissions.md, walked through from nothing on two fresh clusters: its scripts as they stand there, but for places and
//! passwords; and then that the roles that it makes can do what it says, and no more.

mod support;

use postgres::{Client, SimpleQueryMessage};
use support::{run_dir, Cluster};

const PAGE: &str = include_str!("../docs/permissions.md");

/// A script of the page: where, as whom, and what to run.
#[derive(Clone)]
struct Script {
    on_source: bool,
    database: String,
    role: String,
    sql: String,
}

/// The scripts in the order of the page. The first line of each is `-- on the source, in database shop, as a superuser`.
fn scripts(source_port: u16) -> Vec<Script> {
    let mut sql = PAGE.replace("host=source.example.org port=5432", &format!("host=127.0.0.1 port={source_port}"));
    while let Some(at) = sql.find("<password of ") {
        let end = at + sql[at..].find('>').unwrap();
        let role = sql[at..end].rsplit(' ').next().unwrap().to_string();
        sql.replace_range(at..=end, &format!("{role} secret"));
    }
    sql.split("```sql\n")
        .skip(1)
        .map(|rest| {
            let sql = rest.split("```").next().unwrap();
            let place = sql.lines().next().unwrap().strip_prefix("-- on the ").expect("where to run it");
            let [side, database, role] = place.split(", ").collect::<Vec<_>>()[..] else { panic!("{place}") };
            Script {
                on_source: side == "source",
                database: database.strip_prefix("in database ").unwrap().to_string(),
                role: role.strip_prefix("as ").unwrap().to_string(),
                sql: sql.to_string(),
            }
        })
        .collect()
}

struct Walk {
    source: Cluster,
    destination: Cluster,
}

impl Walk {
    fn client(&self, step: &Script) -> Client {
        let cluster = if step.on_source { &self.source } else { &self.destination };
        match step.role.as_str() {
            "a superuser" => cluster.superuser(&step.database),
            role => cluster.connect(role, &step.database),
        }
    }

    /// Runs a script. Statements that look for gaps must find none.
    fn run(&self, step: &Script) {
        let answers = self.client(step).simple_query(&step.sql).unwrap_or_else(|error| {
            panic!("as {} in {}: {error:?}\n{}", step.role, step.database, step.sql);
        });
        for answer in answers {
            if let SimpleQueryMessage::Row(row) = answer {
                let fix = row.columns().iter().position(|column| column.name() == "fix");
                assert!(fix.is_none_or(|fix| row.get(fix).is_none()), "a gap: {row:?}");
            }
        }
    }

    fn change_orders(&self) {
        self.source
            .superuser("shop")
            .batch_execute(
                "INSERT INTO orders (item) SELECT 'new ' || i FROM generate_series(1, 20) i;
                 UPDATE orders SET item = item || '!', changed_at = DEFAULT WHERE id <= 10;
                 DELETE FROM orders WHERE id = 20; SELECT pg_stat_force_next_flush()",
            )
            .unwrap();
    }

    fn orders(&self, table: &str, r#where: &str) -> String {
        let (cluster, database) =
            if table == "public.orders" { (&self.source, "shop") } else { (&self.destination, "reports") };
        let sql = format!("SELECT md5(string_agg(concat(id, item), ',' ORDER BY id)) FROM {table} WHERE {where}");
        cluster.superuser(database).query_one(&sql, &[]).unwrap().get(0)
    }
}

#[test]
fn the_page_can_be_followed_from_nothing_and_the_refresher_can_only_refresh() {
    let walk = Walk {
        source: Cluster::start(&run_dir().join("source"), ""),
        destination: Cluster::start(&run_dir().join("destination"), ""),
    };
    walk.source.superuser("postgres").batch_execute("CREATE DATABASE shop").unwrap();
    walk.source
        .superuser("shop")
        .batch_execute(
            "CREATE TABLE orders (id serial PRIMARY KEY, item text, changed_at timestamptz DEFAULT clock_timestamp());
             INSERT INTO orders (item) SELECT 'item ' || i FROM generate_series(1, 100) i",
        )
        .unwrap();
    walk.destination.superuser("postgres").batch_execute("CREATE DATABASE reports").unwrap();
    // Nobody is let in from elsewhere.
    let hba = walk.source.dir().join("data/pg_hba.conf");
    std::fs::write(&hba, "local all postgres trust\n").unwrap();
    walk.source.superuser("shop").batch_execute("SELECT pg_reload_conf()").unwrap();

    let steps = scripts(walk.source.port);
    let places: Vec<_> = steps.iter().map(|step| format!("{} {}", step.database, step.role)).collect();
    assert_eq!(
        places,
        [
            "shop a superuser",
            "reports a superuser",
            "reports keeper",
            "shop a superuser",
            "reports keeper",
            "reports a superuser",
            "reports keeper",
            "reports refresher",
            "reports refresher",
            "reports keeper"
        ]
    );
    let [source, keeper, first, capture, second, refresher, grants, refreshes, due, whole] = &steps[..] else {
        panic!()
    };

    // 1. snapshot, table, inserter, updater. The line for pg_hba.conf is the one that check_permissions gives.
    walk.run(source);
    walk.run(keeper);
    let (before, makers) = first.sql.split_once("SELECT side").unwrap();
    walk.client(first).batch_execute(before).unwrap();
    let line = pg_hba_line(&mut walk.client(first));
    assert_eq!(line, "host \"shop\" \"copier\" 127.0.0.1/32 scram-sha-256");
    std::fs::write(&hba, format!("local all postgres trust\n{line}\n")).unwrap();
    walk.source.superuser("shop").batch_execute("SELECT pg_reload_conf(), pg_sleep(0.2)").unwrap();
    walk.run(&Script { sql: format!("SELECT side{makers}"), ..first.clone() });

    // 2. dml and logdel
    walk.run(capture);
    walk.run(second);

    // 3. The role that only refreshes
    walk.run(refresher);
    walk.run(grants);
    walk.change_orders();
    walk.run(refreshes);
    walk.run(due);
    let now = walk.orders("public.orders", "true");
    for table in ["shop.orders", "shop.orders_copy", "shop.orders_dml"] {
        assert_eq!(walk.orders(table, "true"), now, "{table}");
    }
    assert_eq!(walk.orders("shop.orders_archive", "mimeo_source_deleted IS NULL"), now);
    assert_eq!(walk.orders("shop.orders_new", "id > 100"), walk.orders("public.orders", "id > 100 AND id < 120"));
    assert_eq!(walk.orders("shop.orders_changed", "id <> 20"), now, "an updater keeps what is deleted");
    walk.run(whole);

    nobody_is_a_superuser(&walk);
    the_refresher_can_do_nothing_else(&walk);
}

fn pg_hba_line(keeper: &mut Client) -> String {
    let fix: String = keeper
        .query_one("SELECT fix FROM mimeo.check_permissions(1, 'public.orders') WHERE privilege = 'connection'", &[])
        .unwrap()
        .get(0);
    assert!(fix.contains("no pg_hba.conf entry"), "{fix}");
    fix.lines().last().unwrap().to_string()
}

fn nobody_is_a_superuser(walk: &Walk) {
    for (cluster, database) in [(&walk.source, "shop"), (&walk.destination, "reports")] {
        let sql =
            "SELECT count(*) FILTER (WHERE rolsuper OR rolcreaterole OR rolcreatedb OR rolbypassrls OR rolreplication),
                          count(*) FROM pg_roles WHERE rolname IN ('copier', 'keeper', 'refresher')";
        let row = cluster.superuser(database).query_one(sql, &[]).unwrap();
        assert_eq!(row.get::<_, i64>(0), 0);
        assert!(row.get::<_, i64>(1) > 0);
    }
}

fn the_refresher_can_do_nothing_else(walk: &Walk) {
    let mut refresher = walk.destination.connect("refresher", "reports");
    let others: i64 = refresher
        .query_one(
            "SELECT count(*) FROM pg_proc p WHERE p.pronamespace = 'mimeo'::regnamespace AND p.proname !~ '^(refresh_|run_refresh$|running_refreshes$)'
                AND has_function_privilege(p.oid, 'EXECUTE')",
            &[],
        )
        .unwrap()
        .get(0);
    assert_eq!(others, 0, "it may call refreshers only");
    let runs: i64 = refresher.query_one("SELECT count(*) FROM mimeo.running_refreshes()", &[]).unwrap().get(0);
    assert_eq!(runs, 0, "and is shown nothing of what runs");
    let tables: i64 = refresher
        .query_one(
            "SELECT count(*) FROM pg_class c WHERE c.relnamespace IN ('mimeo'::regnamespace, 'shop'::regnamespace)
                AND c.relkind IN ('r', 'v', 'S') AND CASE WHEN c.relkind = 'S' THEN has_sequence_privilege(c.oid, 'USAGE, SELECT, UPDATE')
                ELSE has_table_privilege(c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, TRIGGER, REFERENCES') END",
            &[],
        )
        .unwrap()
        .get(0);
    assert_eq!(tables, 0, "it may touch no table");
    for sql in [
        "SELECT * FROM shop.orders",
        "SELECT pwd FROM mimeo.dblink_mapping_mimeo",
        "UPDATE mimeo.refresh_config SET condition = NULL",
        "SELECT mimeo.snapshot_maker('public.orders', 1)",
        "SELECT mimeo.table_destroyer('shop.orders_copy')",
        "SELECT mimeo.check_permissions(1, 'public.orders')",
        "CREATE TABLE shop.x ()",
        "CREATE SCHEMA x",
    ] {
        let error = refresher.batch_execute(sql).unwrap_err();
        assert_eq!(error.code().map(|code| code.code()), Some("42501"), "{sql}: {error:?}");
    }
}
