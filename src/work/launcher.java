import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.lang.reflect.Modifier;
import java.util.Arrays;

/** Starts a class: its main, or its parameterless run() that returns a String, whose value is the output. */
final class PhalanxLauncher {
    public static void main(String[] args) throws Throwable {
        Class<?> type = Class.forName(args[0]);
        String[] rest = Arrays.copyOfRange(args, 1, args.length);
        try {
            Method main = find(type, "main", String[].class);
            if (main != null) {
                main.setAccessible(true);
                main.invoke(null, (Object) rest);
                return;
            }
            Method run = find(type, "run");
            if (run == null || run.getReturnType() != String.class) {
                System.err.println("class " + type.getName()
                        + " has neither a static main(String[]) nor a run() that returns a String");
                System.exit(1);
            }
            run.setAccessible(true);
            Object object = null;
            if (!Modifier.isStatic(run.getModifiers())) {
                var constructor = type.getDeclaredConstructor();
                constructor.setAccessible(true);
                object = constructor.newInstance();
            }
            System.out.print(run.invoke(object));
            System.out.flush();
        } catch (InvocationTargetException failure) {
            failure.getCause().printStackTrace();
            System.out.flush();
            System.exit(1);
        }
    }

    private static Method find(Class<?> type, String name, Class<?>... parameters) {
        try {
            Method method = type.getDeclaredMethod(name, parameters);
            boolean isMain = name.equals("main");
            return isMain && !Modifier.isStatic(method.getModifiers()) ? null : method;
        } catch (NoSuchMethodException absent) {
            return null;
        }
    }
}
