import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.HttpURLConnection;
import java.net.URL;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Paths;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.ArrayList;
import java.util.List;
import java.util.UUID;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.ThreadLocalRandom;

/**
 * Sends hooks as the media server does: java.net.HttpURLConnection on a fixed pool of threads, over its own
 * keep-alive connections. Every setting of that client stays as Java has it, the silent repetition of a POST
 * whose connection closes before an answer included; only redirects are not followed, since to the media
 * server a 302 is an error.
 *
 * <p>Usage: HookClient URL THREADS COUNT TEMPLATE [CONNECT_TIMEOUT_MS [READ_TIMEOUT_MS [PAUSE_MS]]]
 *
 * <p>Before each hook, its thread waits a random time of up to PAUSE_MS, 0 by default, so that connections idle.
 *
 * <p>TEMPLATE is the file of a hook's body, in which every {@value #CALL_ID} stands for the hook's own call
 * id. When all hooks have ended, prints one JSON object a line for each: call_id, sent_sha1, status,
 * received_sha1, ms, error. Status and received_sha1 are null where there was no whole answer, error is null
 * where there was. Java 8 syntax.
 */
public final class HookClient {
    private static final String CALL_ID = "@callId@";
    private static final int DEFAULT_TIMEOUT_MS = 15000;

    private final URL url;
    private final String template;
    private final int connectTimeoutMs;
    private final int readTimeoutMs;
    private final int pauseMs;

    private HookClient(URL url, String template, int connectTimeoutMs, int readTimeoutMs, int pauseMs) {
        this.url = url;
        this.template = template;
        this.connectTimeoutMs = connectTimeoutMs;
        this.readTimeoutMs = readTimeoutMs;
        this.pauseMs = pauseMs;
    }

    public static void main(String[] args) throws IOException, InterruptedException {
        if (args.length < 4 || args.length > 7) {
            System.err.println(
                    "usage: HookClient URL THREADS COUNT TEMPLATE [CONNECT_TIMEOUT_MS [READ_TIMEOUT_MS [PAUSE_MS]]]");
            System.exit(2);
        }
        int threads = Integer.parseInt(args[1]);
        int count = Integer.parseInt(args[2]);
        String template = new String(Files.readAllBytes(Paths.get(args[3])), StandardCharsets.UTF_8);
        int connectTimeoutMs = args.length > 4 ? Integer.parseInt(args[4]) : DEFAULT_TIMEOUT_MS;
        int readTimeoutMs = args.length > 5 ? Integer.parseInt(args[5]) : DEFAULT_TIMEOUT_MS;
        int pauseMs = args.length > 6 ? Integer.parseInt(args[6]) : 0;
        HookClient client = new HookClient(new URL(args[0]), template, connectTimeoutMs, readTimeoutMs, pauseMs);
        for (String line : client.sendAll(threads, count)) {
            System.out.println(line);
        }
    }

    private List<String> sendAll(int threads, int count) throws InterruptedException {
        String run = UUID.randomUUID().toString();
        List<Callable<String>> hooks = new ArrayList<>();
        for (int number = 0; number < count; number++) {
            String callId = "java-" + number + "@" + run;
            hooks.add(() -> send(callId));
        }
        ExecutorService pool = Executors.newFixedThreadPool(threads);
        try {
            List<String> lines = new ArrayList<>();
            for (Future<String> hook : pool.invokeAll(hooks)) {
                lines.add(hook.get());
            }
            return lines;
        } catch (ExecutionException broken) {
            throw new IllegalStateException(broken.getCause());
        } finally {
            pool.shutdownNow();
        }
    }

    private String send(String callId) throws InterruptedException {
        if (pauseMs > 0) {
            Thread.sleep(ThreadLocalRandom.current().nextInt(pauseMs + 1));
        }
        byte[] body = template.replace(CALL_ID, callId).getBytes(StandardCharsets.UTF_8);
        Integer status = null;
        String received = null;
        String error = null;
        long start = System.nanoTime();
        try {
            HttpURLConnection connection = open();
            // Plain, as the media server's client does it: Java buffers the body and counts its length.
            try (OutputStream out = connection.getOutputStream()) {
                out.write(body);
            }
            int code = connection.getResponseCode();
            received = sha1(readAnswer(connection, code));
            status = code;
        } catch (IOException failure) {
            error = failure.getClass().getSimpleName() + ": " + failure.getMessage();
        }
        double ms = (System.nanoTime() - start) / 1e6;
        return "{\"call_id\": " + quoted(callId)
                + ", \"sent_sha1\": " + quoted(sha1(body))
                + ", \"status\": " + status
                + ", \"received_sha1\": " + quoted(received)
                + ", \"ms\": " + ms
                + ", \"error\": " + quoted(error) + "}";
    }

    private HttpURLConnection open() throws IOException {
        HttpURLConnection connection = (HttpURLConnection) url.openConnection();
        connection.setRequestMethod("POST");
        connection.setDoOutput(true);
        connection.setInstanceFollowRedirects(false);
        connection.setConnectTimeout(connectTimeoutMs);
        connection.setReadTimeout(readTimeoutMs);
        connection.setRequestProperty("Accept", "application/json");
        connection.setRequestProperty("Content-Type", "application/json;charset=UTF-8");
        return connection;
    }

    /** The whole body: only an answer that was read to its end gives its connection back for the next hook. */
    private static byte[] readAnswer(HttpURLConnection connection, int code) throws IOException {
        try (InputStream in = code >= 400 ? connection.getErrorStream() : connection.getInputStream()) {
            ByteArrayOutputStream answer = new ByteArrayOutputStream();
            if (in != null) { // an error without a body has no stream
                byte[] buffer = new byte[8192];
                for (int length = in.read(buffer); length >= 0; length = in.read(buffer)) {
                    answer.write(buffer, 0, length);
                }
            }
            return answer.toByteArray();
        }
    }

    private static String sha1(byte[] data) {
        try {
            StringBuilder hex = new StringBuilder();
            for (byte octet : MessageDigest.getInstance("SHA-1").digest(data)) {
                hex.append(String.format("%02x", octet));
            }
            return hex.toString();
        } catch (NoSuchAlgorithmException impossible) {
            throw new IllegalStateException(impossible); // every Java has SHA-1
        }
    }

    private static String quoted(String text) {
        if (text == null) {
            return "null";
        }
        StringBuilder json = new StringBuilder("\"");
        for (char c : text.toCharArray()) {
            if (c == '"' || c == '\\' || c < ' ' || c > '~') {
                json.append(String.format("\\u%04x", (int) c));
            } else {
                json.append(c);
            }
        }
        return json.append('"').toString();
    }
}
