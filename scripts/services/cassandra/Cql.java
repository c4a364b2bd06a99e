import ch.qos.logback.classic.Level;
import ch.qos.logback.classic.Logger;
import com.datastax.driver.core.Cluster;
import com.datastax.driver.core.Row;
import com.datastax.driver.core.Session;
import com.datastax.driver.core.RemoteEndpointAwareJdkSSLOptions;
import com.datastax.driver.core.exceptions.AuthenticationException;
import com.datastax.driver.core.exceptions.NoHostAvailableException;
import java.io.IOException;
import java.io.InputStream;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.concurrent.TimeUnit;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;
import org.slf4j.LoggerFactory;

/**
 * Waits until a node answers CQL, then runs the statements given.
 * Arguments: host, port, seconds to wait, statements. Properties for a node with TLS and passwords: authority (a file with
 * certificates), user, password.
 */
public final class Cql {
    private Cql() {}

    public static void main(String[] args) throws Exception {
        ((Logger) LoggerFactory.getLogger(Logger.ROOT_LOGGER_NAME)).setLevel(Level.OFF);
        InetSocketAddress address = new InetSocketAddress(args[0], Integer.parseInt(args[1]));
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(Long.parseLong(args[2]));
        String last = "no answer";
        while (System.nanoTime() < deadline) {
            try {
                // A failed session is slow to close, so first see that somebody listens.
                new Socket(address.getAddress(), address.getPort()).close();
                run(address, args);
                System.exit(0);
            } catch (IOException | NoHostAvailableException | AuthenticationException e) {
                last = e.getMessage();
            }
            Thread.sleep(100);
        }
        System.err.println("not ready: " + last);
        System.exit(1);
    }

    private static void run(InetSocketAddress address, String[] args) throws Exception {
        Cluster.Builder builder = Cluster.builder()
                .addContactPointsWithPorts(address)
                .withoutJMXReporting()
                .withoutMetrics();
        if (System.getProperty("authority") != null) {
            SSLContext tls = tls(Path.of(System.getProperty("authority")));
            builder.withSSL(RemoteEndpointAwareJdkSSLOptions.builder().withSSLContext(tls).build())
                    .withCredentials(System.getProperty("user"), System.getProperty("password"));
        }
        Session session = builder.build().connect();
        Row local = session.execute("SELECT release_version FROM system.local").one();
        System.out.println("Cassandra " + local.getString(0));
        for (int i = 3; i < args.length; i++) {
            for (Row row : session.execute(args[i])) {
                System.out.println(row);
            }
        }
    }

    private static SSLContext tls(Path authority) throws IOException, GeneralSecurityException {
        KeyStore trusted = KeyStore.getInstance(KeyStore.getDefaultType());
        trusted.load(null, null);
        try (InputStream certificate = Files.newInputStream(authority)) {
            trusted.setCertificateEntry("authority", CertificateFactory.getInstance("X.509").generateCertificate(certificate));
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(trusted);
        SSLContext tls = SSLContext.getInstance("TLS");
        tls.init(null, trust.getTrustManagers(), null);
        return tls;
    }
}
