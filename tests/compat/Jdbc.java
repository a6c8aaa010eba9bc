import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.nio.charset.StandardCharsets;
import java.sql.Array;
import java.sql.BatchUpdateException;
import java.sql.CallableStatement;
import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.SQLWarning;
import java.sql.Savepoint;
import java.sql.Statement;
import java.sql.Timestamp;
import java.sql.Types;
import java.util.Properties;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.copy.CopyManager;
import org.postgresql.largeobject.LargeObject;
import org.postgresql.largeobject.LargeObjectManager;

/**
 * PostgreSQL's JDBC driver, by a script after its documentation: Jdbc URL USER PASSWORD [STEP].
 *
 * <p>Each step has a connection of its own. It prints "== name", then what there was to see.
 */
public final class Jdbc {
    private interface Step {
        void run(Connection c) throws Exception;
    }

    private static String url;
    private static Properties login;
    private static String only;

    public static void main(String[] args) throws Exception {
        url = args[0];
        login = new Properties();
        login.setProperty("user", args[1]);
        login.setProperty("password", args[2]);
        only = args.length > 3 ? args[3] : null;
        step("setup", Jdbc::setup);
        step("statements", Jdbc::statements);
        step("prepared", Jdbc::prepared, "prepareThreshold", "1");
        step("prepared_after_ddl", Jdbc::preparedAfterDdl, "prepareThreshold", "1");
        step("prepared_binary", Jdbc::prepared, "prepareThreshold", "-1");
        step("simple_mode", Jdbc::statements, "preferQueryMode", "simple");
        step("extended_cache_everything", Jdbc::statements, "preferQueryMode", "extendedCacheEverything");
        step("batches", Jdbc::batches);
        step("rewritten_batches", Jdbc::batches, "reWriteBatchedInserts", "true");
        step("cursors", Jdbc::cursors);
        step("transactions", Jdbc::transactions);
        step("autosave", Jdbc::autosave, "autosave", "always");
        step("read_only", Jdbc::readOnly);
        step("copy", Jdbc::copy);
        step("large_objects", Jdbc::largeObjects);
        step("arrays_and_types", Jdbc::types);
        step("metadata", Jdbc::metadata);
        step("calls", Jdbc::calls);
        step("updatable_results", Jdbc::updatable);
        step("notifications", Jdbc::notifications);
        step("cancel_and_timeouts", Jdbc::cancel);
        step("settings", Jdbc::settings, "options", "-c statement_timeout=90s", "ApplicationName", "a name", "currentSchema", "jdbc");
        step("closing", Jdbc::closing);
        step("teardown", c -> run(c, "DROP SCHEMA jdbc CASCADE"));
    }

    private static void step(String name, Step step, String... properties) throws Exception {
        if (only != null && !name.contains(only) && !name.equals("setup") && !name.equals("teardown")) {
            return;
        }
        System.out.println("== " + name);
        Properties all = new Properties();
        all.putAll(login);
        for (int i = 0; i < properties.length; i += 2) {
            all.setProperty(properties[i], properties[i + 1]);
        }
        try (Connection c = DriverManager.getConnection(url, all)) {
            if (!all.containsKey("currentSchema")) {
                run(c, "SET search_path TO jdbc, public");
            }
            step.run(c);
        } catch (SQLException error) {
            System.out.println("the step failed: " + told(error));
        }
    }

    private static String told(SQLException error) {
        String next = error instanceof BatchUpdateException && error.getNextException() != null ? " / " + error.getNextException().getMessage() : "";
        return error.getSQLState() + " " + error.getMessage() + next;
    }

    private static void run(Connection c, String sql) throws SQLException {
        try (Statement s = c.createStatement()) {
            boolean hasRows = s.execute(sql);
            do {
                if (hasRows) {
                    show(s.getResultSet());
                } else {
                    System.out.println("count " + s.getUpdateCount());
                }
                hasRows = s.getMoreResults();
            } while (hasRows || s.getUpdateCount() != -1);
            for (SQLWarning w = s.getWarnings(); w != null; w = w.getNextWarning()) {
                System.out.println("warning " + w.getSQLState() + " " + w.getMessage());
            }
        }
    }

    private static void fails(Connection c, String sql) {
        try {
            run(c, sql);
            System.out.println("did not fail: " + sql);
        } catch (SQLException error) {
            System.out.println("error " + told(error));
        }
    }

    private static void show(ResultSet rows) throws SQLException {
        ResultSetMetaData columns = rows.getMetaData();
        StringBuilder head = new StringBuilder();
        for (int i = 1; i <= columns.getColumnCount(); i++) {
            head.append(columns.getColumnLabel(i)).append(':').append(columns.getColumnTypeName(i)).append(' ');
        }
        System.out.println(head);
        while (rows.next()) {
            StringBuilder line = new StringBuilder();
            for (int i = 1; i <= columns.getColumnCount(); i++) {
                line.append(rows.getString(i)).append('|');
            }
            System.out.println(line);
        }
    }

    private static void setup(Connection c) throws Exception {
        run(c, "CREATE SCHEMA jdbc");
        run(c, "CREATE TABLE jdbc.items (id serial PRIMARY KEY, name text NOT NULL, price numeric(10,2), at timestamptz DEFAULT '2024-01-02 03:04:05Z', tags text[])");
        run(c, "CREATE TABLE jdbc.parts (id bigint PRIMARY KEY, item int REFERENCES jdbc.items, label varchar(20))");
        run(c, "CREATE FUNCTION jdbc.twice(i int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT i * 2'");
        run(c, "CREATE FUNCTION jdbc.some_rows() RETURNS refcursor LANGUAGE plpgsql AS 'DECLARE r refcursor := ''named''; BEGIN OPEN r FOR SELECT id, name FROM jdbc.items ORDER BY id LIMIT 3; RETURN r; END'");
        run(c, "CREATE PROCEDURE jdbc.add(n text, INOUT made int) LANGUAGE plpgsql AS 'BEGIN INSERT INTO jdbc.items (name) VALUES (n) RETURNING id INTO made; END'");
        run(c, "INSERT INTO jdbc.items (name, price, tags) SELECT 'item ' || i, i * 1.5, ARRAY['a', i::text] FROM generate_series(1, 500) i");
        run(c, "CREATE INDEX by_name ON jdbc.items (name)");
    }

    private static void statements(Connection c) throws Exception {
        run(c, "SELECT 1 AS one; SELECT id, name FROM items WHERE id < 4 ORDER BY id; UPDATE items SET price = 2 WHERE id = 1");
        run(c, "DO $$ BEGIN RAISE NOTICE 'a notice'; RAISE WARNING 'a warning'; END $$");
        fails(c, "SELECT 1/0");
        fails(c, "SELECT * FROM no_such_table");
        fails(c, "INSERT INTO items (id, name) VALUES (1, 'twice')");
        fails(c, "SELEC 1");
        run(c, "SELECT count(*) FROM items");
        run(c, "SELECT {fn upper('x')}, {d '2024-01-01'}, {fn length('four')}");
        try (Statement s = c.createStatement()) {
            s.executeUpdate("INSERT INTO items (name) VALUES ('made') RETURNING id", Statement.RETURN_GENERATED_KEYS);
            try (ResultSet keys = s.getGeneratedKeys()) {
                System.out.println(keys.next());
            }
            System.out.println(s.executeUpdate("DELETE FROM items WHERE name = 'made'"));
        }
    }

    private static void prepared(Connection c) throws Exception {
        try (PreparedStatement s = c.prepareStatement("SELECT id, name, price, at FROM items WHERE id = ? OR name = ? ORDER BY id")) {
            for (int i = 1; i <= 8; i++) {
                s.setInt(1, i);
                s.setString(2, "item " + (i + 100));
                show(s.executeQuery());
            }
            System.out.println(s.getParameterMetaData().getParameterTypeName(1) + " " + s.getMetaData().getColumnTypeName(4));
        }
        try (PreparedStatement s = c.prepareStatement("INSERT INTO parts VALUES (?, ?, ?)", Statement.RETURN_GENERATED_KEYS)) {
            for (int i = 1; i <= 8; i++) {
                s.setLong(1, 1000 + i);
                s.setInt(2, i);
                s.setNull(3, Types.VARCHAR);
                System.out.println(s.executeUpdate());
            }
            try {
                s.executeUpdate();
            } catch (SQLException error) {
                System.out.println(told(error));
            }
        }
        run(c, "DELETE FROM parts");
    }

    private static void preparedAfterDdl(Connection c) throws Exception {
        run(c, "CREATE TABLE changing (a int); INSERT INTO changing VALUES (1)");
        try (PreparedStatement s = c.prepareStatement("SELECT * FROM changing")) {
            for (int i = 0; i < 6; i++) {
                show(s.executeQuery());
            }
            run(c, "ALTER TABLE changing ADD b text DEFAULT 'new'");
            show(s.executeQuery());
            c.setAutoCommit(false);
            show(s.executeQuery());
            run(c, "ALTER TABLE changing DROP a");
            try {
                show(s.executeQuery());
            } catch (SQLException error) {
                System.out.println(told(error));
            }
            c.rollback();
            c.setAutoCommit(true);
            run(c, "DEALLOCATE ALL");
            show(s.executeQuery());
            run(c, "DISCARD ALL");
            fails(c, "SELECT * FROM changing");
        }
        run(c, "DROP TABLE jdbc.changing");
    }

    private static void batches(Connection c) throws Exception {
        try (PreparedStatement s = c.prepareStatement("INSERT INTO parts VALUES (?, ?, ?)")) {
            for (int i = 0; i < 1000; i++) {
                s.setLong(1, i);
                s.setInt(2, i % 500 + 1);
                s.setString(3, "label " + i);
                s.addBatch();
            }
            System.out.println(s.executeBatch().length);
            s.setLong(1, 1);
            s.setInt(2, 1);
            s.setString(3, "again");
            s.addBatch();
            try {
                s.executeBatch();
            } catch (BatchUpdateException error) {
                System.out.println(error.getUpdateCounts().length + " " + told(error));
            }
        }
        try (Statement s = c.createStatement()) {
            s.addBatch("UPDATE parts SET label = 'x' WHERE id < 10");
            s.addBatch("DELETE FROM parts WHERE id >= 500");
            System.out.println(java.util.Arrays.toString(s.executeBatch()));
        }
        run(c, "SELECT count(*), sum(id) FROM parts");
        run(c, "DELETE FROM parts");
    }

    private static void cursors(Connection c) throws Exception {
        c.setAutoCommit(false);
        try (Statement s = c.createStatement()) {
            s.setFetchSize(7);
            long sum = 0;
            try (ResultSet rows = s.executeQuery("SELECT id FROM items WHERE id <= 400 ORDER BY id")) {
                while (rows.next()) {
                    sum += rows.getInt(1);
                }
            }
            System.out.println(sum);
        }
        c.commit();
        try (Statement s = c.createStatement(ResultSet.TYPE_SCROLL_INSENSITIVE, ResultSet.CONCUR_READ_ONLY)) {
            ResultSet rows = s.executeQuery("SELECT id FROM items WHERE id <= 10 ORDER BY id");
            System.out.println(rows.last() + " " + rows.getInt(1) + " " + rows.absolute(3) + " " + rows.getInt(1));
        }
        run(c, "DECLARE held CURSOR WITH HOLD FOR SELECT id FROM items WHERE id <= 5 ORDER BY id");
        c.commit();
        run(c, "FETCH 2 FROM held");
        run(c, "FETCH 2 FROM held");
        run(c, "CLOSE held");
        c.commit();
    }

    private static void transactions(Connection c) throws Exception {
        c.setAutoCommit(false);
        c.setTransactionIsolation(Connection.TRANSACTION_REPEATABLE_READ);
        run(c, "SHOW transaction_isolation");
        run(c, "INSERT INTO parts VALUES (1, 1, 'kept')");
        Savepoint before = c.setSavepoint("before");
        run(c, "INSERT INTO parts VALUES (2, 1, 'undone')");
        c.rollback(before);
        fails(c, "SELECT 1/0");
        fails(c, "SELECT 1");
        c.rollback(before);
        run(c, "SELECT * FROM parts");
        c.releaseSavepoint(before);
        c.commit();
        run(c, "SELECT * FROM parts");
        c.rollback();
        c.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
        run(c, "DELETE FROM parts");
        c.commit();
        c.setAutoCommit(true);
    }

    private static void autosave(Connection c) throws Exception {
        c.setAutoCommit(false);
        run(c, "INSERT INTO parts VALUES (1, 1, 'kept')");
        fails(c, "INSERT INTO parts VALUES (1, 1, 'twice')");
        run(c, "SELECT count(*) FROM parts");
        c.rollback();
    }

    private static void readOnly(Connection c) throws Exception {
        c.setReadOnly(true);
        run(c, "SELECT count(*) FROM items");
        fails(c, "DELETE FROM items WHERE id < 0");
        c.setAutoCommit(false);
        run(c, "SELECT max(id) > 0 FROM items");
        fails(c, "DELETE FROM items WHERE id < 0");
        c.rollback();
        c.setReadOnly(false);
        run(c, "UPDATE items SET price = price WHERE id = 1");
        c.commit();
    }

    private static void copy(Connection c) throws Exception {
        CopyManager copy = c.unwrap(PGConnection.class).getCopyAPI();
        StringBuilder lines = new StringBuilder();
        for (int i = 0; i < 3000; i++) {
            lines.append(i).append("\t1\tlabel ").append(i).append('\n');
        }
        byte[] bytes = lines.toString().getBytes(StandardCharsets.UTF_8);
        System.out.println(copy.copyIn("COPY parts FROM STDIN", new ByteArrayInputStream(bytes)));
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        System.out.println(copy.copyOut("COPY (SELECT * FROM parts ORDER BY id) TO STDOUT", out) + " " + java.util.Arrays.equals(out.toByteArray(), bytes));
        try {
            copy.copyIn("COPY parts FROM STDIN", new ByteArrayInputStream("not a number\t1\tx\n".getBytes()));
        } catch (SQLException error) {
            System.out.println(told(error));
        }
        run(c, "DELETE FROM parts");
    }

    private static void largeObjects(Connection c) throws Exception {
        c.setAutoCommit(false);
        LargeObjectManager manager = c.unwrap(PGConnection.class).getLargeObjectAPI();
        long id = manager.createLO(LargeObjectManager.READWRITE);
        byte[] bytes = new byte[70_000];
        for (int i = 0; i < bytes.length; i++) {
            bytes[i] = (byte) i;
        }
        try (LargeObject object = manager.open(id, LargeObjectManager.READWRITE)) {
            object.write(bytes);
            object.seek(10);
            System.out.println(object.tell() + " " + object.size() + " " + object.read(5)[4]);
        }
        c.commit();
        try (LargeObject object = manager.open(id, LargeObjectManager.READ)) {
            System.out.println(java.util.Arrays.equals(object.read(bytes.length), bytes));
        }
        manager.delete(id);
        c.commit();
    }

    private static void types(Connection c) throws Exception {
        try (PreparedStatement s = c.prepareStatement("SELECT ?::int[], ?::text[], ?::timestamptz, ?::uuid, ?::jsonb, ?::bytea, ?::numeric, ?::bool, ?::date")) {
            for (int i = 0; i < 7; i++) {
                s.setArray(1, c.createArrayOf("int4", new Integer[] {1, null, 3}));
                s.setArray(2, c.createArrayOf("text", new String[] {"a,b", "\"", null}));
                s.setTimestamp(3, new Timestamp(1_700_000_000_000L));
                s.setObject(4, java.util.UUID.fromString("00000000-0000-0000-0000-00000000002a"));
                s.setObject(5, "{\"a\": [1, 2]}", Types.OTHER);
                s.setBytes(6, new byte[] {0, 1, (byte) 255});
                s.setBigDecimal(7, new java.math.BigDecimal("12345678901234567890.123456789"));
                s.setBoolean(8, true);
                s.setObject(9, java.time.LocalDate.of(2024, 2, 29));
                show(s.executeQuery());
            }
        }
        try (Statement s = c.createStatement(); ResultSet rows = s.executeQuery("SELECT tags FROM items WHERE id = 7")) {
            rows.next();
            Array tags = rows.getArray(1);
            System.out.println(java.util.Arrays.toString((Object[]) tags.getArray()));
        }
    }

    private static void metadata(Connection c) throws Exception {
        DatabaseMetaData data = c.getMetaData();
        System.out.println(data.getDatabaseProductVersion() + " " + data.getDriverVersion() + " " + data.getMaxConnections());
        show(data.getTables(null, "jdbc", "%", new String[] {"TABLE"}));
        show(data.getColumns(null, "jdbc", "items", "%"));
        show(data.getPrimaryKeys(null, "jdbc", "items"));
        show(data.getImportedKeys(null, "jdbc", "parts"));
        show(data.getExportedKeys(null, "jdbc", "items"));
        show(data.getFunctions(null, "jdbc", "%"));
        show(data.getProcedures(null, "jdbc", "%"));
        show(data.getSchemas());
        show(data.getTablePrivileges(null, "jdbc", "items"));
        try (ResultSet types = data.getTypeInfo()) {
            int count = 0;
            while (types.next()) {
                count++;
            }
            System.out.println(count);
        }
    }

    private static void calls(Connection c) throws Exception {
        try (CallableStatement s = c.prepareCall("{? = call twice(?)}")) {
            s.registerOutParameter(1, Types.INTEGER);
            for (int i = 0; i < 7; i++) {
                s.setInt(2, i);
                s.execute();
                System.out.println(s.getInt(1));
            }
        }
        try (CallableStatement s = c.prepareCall("CALL add(?, ?)")) {
            s.setString(1, "called");
            s.setInt(2, 0);
            s.registerOutParameter(2, Types.INTEGER);
            s.execute();
            System.out.println(s.getInt(2) > 0);
        }
        run(c, "DELETE FROM items WHERE name = 'called'");
        c.setAutoCommit(false);
        try (CallableStatement s = c.prepareCall("{? = call some_rows()}")) {
            s.registerOutParameter(1, Types.REF_CURSOR);
            s.execute();
            show((ResultSet) s.getObject(1));
        }
        c.commit();
    }

    private static void updatable(Connection c) throws Exception {
        try (Statement s = c.createStatement(ResultSet.TYPE_SCROLL_SENSITIVE, ResultSet.CONCUR_UPDATABLE)) {
            ResultSet rows = s.executeQuery("SELECT id, name FROM items WHERE id = 9");
            rows.next();
            rows.updateString("name", "changed");
            rows.updateRow();
            rows.refreshRow();
            System.out.println(rows.getString("name"));
        }
        run(c, "SELECT name FROM items WHERE id = 9; UPDATE items SET name = 'item 9' WHERE id = 9");
    }

    private static void notifications(Connection c) throws Exception {
        run(c, "LISTEN jdbc");
        try (Connection other = DriverManager.getConnection(url, login)) {
            run(other, "NOTIFY jdbc, 'from another'");
        }
        PGConnection listener = c.unwrap(PGConnection.class);
        for (PGNotification n : listener.getNotifications(20_000)) {
            System.out.println(n.getName() + " " + n.getParameter());
        }
        run(c, "NOTIFY jdbc, 'own'");
        for (PGNotification n : listener.getNotifications(20_000)) {
            System.out.println(n.getName() + " " + n.getParameter() + " " + (n.getPID() == listener.getBackendPID()));
        }
        run(c, "UNLISTEN *");
    }

    private static void cancel(Connection c) throws Exception {
        try (Statement s = c.createStatement()) {
            s.setQueryTimeout(1);
            try {
                s.execute("SELECT pg_sleep(60)");
            } catch (SQLException error) {
                System.out.println(told(error));
            }
        }
        try (Statement s = c.createStatement()) {
            Thread other = new Thread(() -> {
                try {
                    Thread.sleep(700);
                    s.cancel();
                } catch (Exception error) {
                    System.out.println(error);
                }
            });
            other.start();
            try {
                s.execute("SELECT pg_sleep(60)");
            } catch (SQLException error) {
                System.out.println(told(error));
            }
            other.join();
        }
        System.out.println(c.isValid(5));
        run(c, "SELECT 1");
    }

    private static void settings(Connection c) throws Exception {
        run(c, "SHOW statement_timeout; SHOW application_name; SHOW search_path; SHOW extra_float_digits; SHOW client_encoding; SHOW DateStyle");
        c.setClientInfo("ApplicationName", "another");
        run(c, "SHOW application_name");
        c.setSchema("public");
        System.out.println(c.getSchema() + " " + c.getCatalog());
        c.setNetworkTimeout(Runnable::run, 60_000);
        run(c, "SELECT current_setting('TimeZone')");
        System.out.println(c.unwrap(PGConnection.class).getParameterStatus("application_name") + " " + c.unwrap(PGConnection.class).getParameterStatus("in_hot_standby"));
    }

    private static void closing(Connection c) throws Exception {
        Connection other = DriverManager.getConnection(url, login);
        other.setAutoCommit(false);
        run(other, "INSERT INTO jdbc.parts VALUES (77, 1, 'lost')");
        other.close();
        System.out.println(other.isClosed());
        run(c, "SELECT count(*) FROM parts WHERE id = 77");
        try {
            DriverManager.getConnection(url + "_missing", login);
        } catch (SQLException error) {
            System.out.println(told(error));
        }
    }
}
